//! flannel's layout in a real store: a subnet is one host's, and that host's again.

use std::net::IpAddr;

use etcd_client::{Client, PutOptions};
use vswitchd::cluster::{Flannel, Says, Settings, View};
use vswitchd::config::Mode;

use super::etcd::Etcd;
use super::host::{Host, TTL, hosts};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const PREFIX: &str = "/coreos.com/network";

fn says(host: u8, subnet: u8) -> Says {
    let part = Flannel {
        network: "pods".into(),
        vni: 1,
        port: 8472,
        subnet: format!("10.5.{subnet}.0/24").parse().unwrap(),
        mac: switch::mac::MacAddr([2, 0x42, 10, 5, host, 1]),
        beside: Vec::new(),
    };
    let vtep = IpAddr::from([198, 18, 1, host]);
    let (networks, members, insists, removes) = Default::default();
    Says { vtep, networks, insists, removes, members, flannel: Some(part) }
}

fn start(etcd: &Etcd, host: u8, subnet: u8) -> Host {
    let mut settings = Settings::of(Mode::Flannel, vec![etcd.endpoint()]);
    settings.ttl = TTL;
    Host::with(settings, says(host, subnet))
}

fn is_in(view: &View, subnet: &str) -> bool {
    view.hosts.iter().any(|host| host.me && host.name == subnet && !host.held)
}

/// The value of a subnet's record, and its lease.
async fn record(client: &mut Client, subnet: &str) -> Option<(String, i64)> {
    let answer = client.get(format!("{PREFIX}/subnets/{subnet}"), None).await.unwrap();
    answer.kvs().first().map(|kv| (kv.value_str().unwrap().to_owned(), kv.lease()))
}

#[tokio::test]
async fn a_subnet_of_flannel_is_one_hosts_and_that_hosts_again() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    let mut one = start(&etcd, 1, 20);
    one.sees("that flannel is not there", |view| view.refused.iter().any(|it| it.key == "config")).await;
    assert_eq!(record(&mut client, "10.5.20.0-24").await, None);
    client.put(format!("{PREFIX}/config"), CONFIG, None).await.unwrap();
    one.sees("itself", |view| is_in(view, "10.5.20.0/24")).await;
    let (value, lease) = record(&mut client, "10.5.20.0-24").await.unwrap();
    assert_eq!(
        value,
        r#"{"PublicIP":"198.18.1.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:42:0a:05:01:01"}}"#
    );
    assert!(lease != 0);

    // Another one with the same subnet is told whose it is, and routes nothing; one with its own is known to the first.
    let mut two = start(&etcd, 2, 20);
    let view =
        two.sees("whose it is", |view| view.refused.iter().any(|it| it.why.contains("198.18.1.1's"))).await;
    assert!(view.members.is_empty() && view.subnets.is_empty());
    let mut three = start(&etcd, 3, 21);
    let view = three.sees("the first", |view| view.members.len() == 1).await;
    assert_eq!((hosts(&view), view.subnets.len()), (vec!["10.5.21.0/24", "10.5.20.0/24"], 1));
    one.sees("the third", |view| view.subnets.len() == 1).await;
    // What it says from now on is another subnet: that is free, and the old one goes.
    two.cluster.say(says(2, 22));
    two.sees("itself", |view| is_in(view, "10.5.22.0/24") && view.subnets.len() == 2).await;
    two.cluster.say(says(2, 23));
    two.sees("itself elsewhere", |view| is_in(view, "10.5.23.0/24")).await;
    one.sees("the second there", |view| {
        let all = hosts(view);
        all.contains(&"10.5.23.0/24") && !all.contains(&"10.5.22.0/24")
    })
    .await;

    // The end leaves the subnet to the lease, so nobody else gets it meanwhile; the next start takes it over.
    let before = record(&mut client, "10.5.21.0-24").await.unwrap();
    three.cluster.leave().await;
    assert_eq!(record(&mut client, "10.5.21.0-24").await.as_ref(), Some(&before));
    let mut three = start(&etcd, 3, 21);
    three.sees("itself again", |view| is_in(view, "10.5.21.0/24") && view.subnets.len() == 2).await;
    let mut known = three.view.clone();
    let again = loop {
        let (value, lease) = record(&mut client, "10.5.21.0-24").await.unwrap();
        if lease != before.1 {
            break (value, lease);
        }
        known.changed().await.unwrap();
    };
    assert_eq!(again.0, before.0);

    // Who does not come back is gone with the lease.
    drop(three);
    one.sees("the third gone", |view| view.subnets.len() == 1).await;
}

#[tokio::test]
async fn a_reservation_is_kept_and_a_lease_that_is_lost_is_made_again() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut client = etcd.client().await;
    client.put(format!("{PREFIX}/config"), CONFIG, None).await.unwrap();
    let reserved = r#"{"PublicIP":"198.18.1.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:00:00:00:00:01"}}"#;
    client.put(format!("{PREFIX}/subnets/10.5.20.0-24"), reserved, None).await.unwrap();
    let mut one = start(&etcd, 1, 20);
    one.sees("what it wrote", |view| view.counters.written == 1).await;
    let (value, lease) = record(&mut client, "10.5.20.0-24").await.unwrap();
    assert!(value.contains("02:42:0a:05:01:01") && lease == 0, "{value} {lease}");

    // Somebody deletes ours: it is said again, and the others are held meanwhile.
    let mut two = start(&etcd, 2, 21);
    two.sees("the first", |view| view.subnets.len() == 1).await;
    client.delete(format!("{PREFIX}/subnets/10.5.21.0-24"), None).await.unwrap();
    two.sees("the deletion", |view| view.counters.emptied == 1 && view.held_until.is_some()).await;
    two.sees("itself", |view| view.counters.written == 2 && is_in(view, "10.5.21.0/24")).await;
    let view = one.sees("the second", |view| view.subnets.len() == 1).await;
    assert_eq!(view.members.first().map(|it| it.host.as_str()), Some("10.5.21.0/24"));
    // A host whose record is a lease that ends is gone.
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let other = r#"{"PublicIP":"198.18.1.9","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:00:00:00:00:09"}}"#;
    let options = PutOptions::new().with_lease(lease);
    client.put(format!("{PREFIX}/subnets/10.5.30.0-24"), other, Some(options)).await.unwrap();
    one.sees("a host of flannel", |view| view.subnets.len() == 2).await;
    client.lease_revoke(lease).await.unwrap();
    one.sees("its end", |view| view.subnets.len() == 1).await;
}
