//! What stands in the store is anybody's: what is no record of a host that could be is named, counted, and nothing else.

use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};
use vswitchd::cluster::{MAX_HOSTS, MAX_REFUSED};

use super::etcd::Etcd;
use super::host::{Host, connected, hosts};

async fn put(client: &mut Client, records: impl IntoIterator<Item = (String, String)>) {
    let mut writes = Vec::new();
    for (key, value) in records {
        writes.push(TxnOp::put(format!("/vswitch/v1/{key}"), value, None));
        if writes.len() == 100 {
            client.txn(Txn::new().and_then(std::mem::take(&mut writes))).await.unwrap();
        }
    }
    client.txn(Txn::new().and_then(writes)).await.unwrap();
}

#[tokio::test]
async fn records_that_cannot_be_are_refused_one_by_one() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    let mut one = Host::start(&etcd.endpoint(), 1, 2);
    let mut two = Host::start(&etcd.endpoint(), 2, 3);
    one.sees_members(3).await;
    two.sees_members(2).await;
    let vtep = |address: &str| format!(r#"{{"vtep":"{address}"}}"#);
    let member = |host: &str, ip: &str| format!(r#"{{"host":"{host}","ips":["{ip}"],"names":["x"]}}"#);
    let cases = [
        ("hosts/ours", vtep("198.18.1.1"), "its VTEP 198.18.1.1 is this host's"),
        ("hosts/theirs", vtep("198.18.1.2"), "is that of host `h2`, which was there first"),
        ("hosts/loopback", vtep("127.0.0.2"), "a loopback address, and so this host itself"),
        ("hosts/other", vtep("fd00::1"), "of another family than this host's"),
        ("hosts/group", vtep("239.1.1.1"), "239.1.1.1 is no address that a host can have on the underlay"),
        ("hosts/nobody", vtep("0.0.0.0"), "0.0.0.0 is no address"),
        ("hosts/all", vtep("255.255.255.255"), "255.255.255.255 is no address"),
        ("hosts/text", "198.18.1.9".into(), "its value is no such record"),
        ("hosts/$(reboot)", vtep("198.18.1.9"), "a name is 1 to 63 letters"),
        ("hosts/../x", vtep("198.18.1.9"), "a name is 1 to 63 letters"),
        // In the name of a host that is not there: one that is takes out what it has not said.
        ("members/100/02:42:0a:ff:00:01", member("ghost", "10.9.0.1"), "10.9.0.1 is in no subnet of `blue`"),
        (
            "members/100/02:42:0a:ff:00:02",
            member("h9", "10.1.9.1"),
            "its host `h9` is not there, or not believed",
        ),
        ("members/100/02:42:0a:ff:00:03", member("loopback", "10.1.9.1"), "its host `loopback` is not there"),
        (
            "members/100/01:00:5e:00:00:01",
            member("h2", "10.1.9.1"),
            "is not a MAC that an interface can have",
        ),
        ("members/100/02:42:0A:FF:00:04", member("h2", "10.1.9.1"), "not written as we write it"),
        ("members/16777216/02:42:0a:ff:00:05", member("h2", "10.1.9.1"), "a VNI is 1 to 16777215"),
        ("members/100/02:42:0a:ff:00:06", "x".repeat(20_000), "its value has 20000 bytes, more than 16384"),
        (
            "networks/red",
            r#"{"vni":100,"subnet":"10.7.0.0/16"}"#.into(),
            "its VNI 100 is that of network `blue`",
        ),
        (
            "networks/green",
            r#"{"vni":7,"subnet":"10.1.128.0/17"}"#.into(),
            "overlaps 10.1.0.0/16 of our network `blue`",
        ),
        ("networks/odd", r#"{"vni":8,"subnet":"10.8.0.1/16"}"#.into(), "10.8.0.1/16 has host bits"),
        (
            "addresses/blue/10.9.0.1",
            r#"{"host":"h2","container":"c","interface":"eth0"}"#.into(),
            "10.9.0.1 is in no subnet",
        ),
        ("nonsense", "x".into(), "no record is at such a key"),
    ];
    put(&mut client, [("hosts/ghost".into(), vtep("198.18.1.8"))]).await;
    put(&mut client, cases.iter().map(|(key, value, _)| ((*key).to_owned(), value.clone()))).await;
    let view = one.sees("all refusals", |view| view.refused.len() == cases.len()).await;
    for (key, _, why) in &cases {
        let refused = view.refused.iter().find(|it| it.key == *key);
        assert!(refused.is_some_and(|it| it.why.contains(why)), "{key}: {refused:?}");
    }
    assert_eq!((view.members.len(), hosts(&view)), (3, vec!["ghost", "h1", "h2"]));
    assert_eq!(view.networks.len(), 1);
    assert!(view.counters.refused >= 10, "{:?}", view.counters);

    // Who joins now is told the same; and what is put right, or taken out, is not refused any more.
    let mut three = Host::start(&etcd.endpoint(), 3, 0);
    let view = three.sees("the hosts", |view| view.hosts.len() == 4 && view.members.len() == 5).await;
    assert!(view.refused.len() >= cases.len() - 2, "{:#?}", view.refused);
    put(&mut client, [("hosts/text".into(), vtep("198.18.1.9"))]).await;
    client.delete("/vswitch/v1/nonsense", None).await.unwrap();
    let view = one.sees("less of it", |view| view.refused.len() == cases.len() - 2).await;
    assert_eq!(hosts(&view), ["ghost", "h1", "h2", "h3", "text"]);
}

#[tokio::test]
async fn a_hundred_thousand_keys_of_junk_hurt_nobody() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    let mut one = Host::start(&etcd.endpoint(), 1, 10);
    one.sees("itself", |view| view.hosts.len() == 1).await;
    let junk = |n: u32| match n % 4 {
        0 => (format!("members/100/junk-{n}"), "x".to_owned()),
        1 => (format!("members/{n}/02:00:00:00:00:01"), r#"{"host":"nobody"}"#.to_owned()),
        2 => (format!("hosts/-{n}"), r#"{"vtep":"198.18.7.7"}"#.to_owned()),
        _ => (format!("a/{n}"), "x".repeat(100)),
    };
    put(&mut client, (0..100_000).map(junk)).await;
    let began = Instant::now();
    let mut two = Host::start(&etcd.endpoint(), 2, 20);
    let view = one.sees_members(20).await;
    assert!(view.refused.len() <= MAX_REFUSED);
    let view = two.sees_members(10).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((hosts(&view), view.refused.len()), (vec!["h1", "h2"], MAX_REFUSED));
    assert!(view.counters.refused >= 50_000, "{:?}", view.counters);
}

#[tokio::test]
async fn values_without_end_and_hosts_without_number() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    // Too long for one answer together.
    for n in 0..30 {
        let key = format!("/vswitch/v1/members/100/02:00:00:00:00:{n:02x}");
        client.put(key, "x".repeat(1 << 20), None).await.unwrap();
    }
    let others = (0..MAX_HOSTS + 50).map(|n| {
        let vtep = format!("198.19.{}.{}", n / 200, n % 200 + 1);
        (format!("hosts/n{n}"), format!(r#"{{"vtep":"{vtep}"}}"#))
    });
    let mut one = Host::start(&etcd.endpoint(), 1, 3);
    one.sees("itself", |view| view.hosts.len() == 1).await;
    put(&mut client, others).await;
    let view = one.sees("a full house", |view| view.hosts.len() == MAX_HOSTS).await;
    assert!(view.counters.too_many >= 51, "{:?}", view.counters);
    assert!(view.refused.iter().any(|it| it.why == format!("there are more than {MAX_HOSTS} hosts")));
    // When there is room again the others come in.
    let range = etcd_client::DeleteOptions::new().with_range("/vswitch/v1/hosts/n2");
    let deleted = client.delete("/vswitch/v1/hosts/n1", Some(range)).await.unwrap().deleted();
    let left = MAX_HOSTS + 50 - usize::try_from(deleted).unwrap();
    let view = one.sees("the rest", |view| view.hosts.len() == left + 1).await;
    assert!(connected(&view));
}
