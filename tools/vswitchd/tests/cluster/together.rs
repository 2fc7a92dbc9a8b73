//! Hosts see each other, and see each other go.

use std::time::{Duration, Instant};

use vswitchd::cluster::State;

use super::etcd::Etcd;
use super::host::{Host, TTL, blue, connected, hosts, member, network, says, settings};

#[tokio::test]
async fn two_hosts_see_each_other() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 2);
    let mut two = Host::start(&etcd.endpoint(), 2, 3);
    let view = one.sees("two", |view| view.members.len() == 3 && view.hosts.len() == 2).await;
    assert!(connected(&view), "{view:?}");
    assert_eq!(hosts(&view), ["h1", "h2"]);
    assert_eq!(view.hosts.iter().map(|host| host.me).collect::<Vec<_>>(), [true, false]);
    assert_eq!(view.networks.as_ref(), [blue()]);
    assert!(view.refused.is_empty(), "{:?}", view.refused);
    for (n, remote) in (1..).zip(view.members.iter()) {
        assert_eq!((remote.host.as_str(), remote.vtep, &remote.member), ("h2", two.says.vtep, &member(2, n)));
    }
    two.sees_members(2).await;

    // A container more, one less, one with another name.
    let mut changed = says(2, 4);
    changed.members.remove(0);
    changed.members[0].names.push("db".into());
    two.cluster.say(changed.clone());
    let view = one
        .sees("the change", |view| view.members.iter().map(|it| &it.member).eq(changed.members.iter()))
        .await;
    // Who is as before is the same one as before.
    assert!(view.members[1].since < view.members[2].since);
}

#[tokio::test]
async fn who_leaves_is_gone_at_once_and_who_dies_within_the_lease() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 1);
    let two = Host::start(&etcd.endpoint(), 2, 3);
    let three = Host::start(&etcd.endpoint(), 3, 5);
    one.sees_members(8).await;
    let began = Instant::now();
    two.cluster.leave().await;
    one.sees_members(5).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    // Dropped, it says nothing any more, as one that was killed.
    let began = Instant::now();
    drop(three);
    let view = one.sees_members(0).await;
    assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs((2 * TTL).into()), "{:?}", began.elapsed());
    assert_eq!(hosts(&view), ["h1"]);
}

#[tokio::test]
async fn a_host_that_is_started_again_is_no_change_for_others() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    let two = Host::start(&etcd.endpoint(), 2, 50);
    let before = one.sees_members(50).await;
    drop(two);
    let mut two = Host::start(&etcd.endpoint(), 2, 50);
    two.sees("itself", |view| view.hosts.len() == 2).await;
    // Its first life's lease ends, and takes nothing along.
    let quiet = tokio::time::timeout(
        Duration::from_secs((2 * TTL).into()),
        one.view.wait_for(|view| view.members != before.members || view.hosts != before.hosts),
    );
    assert!(quiet.await.is_err(), "{:?}", one.view.borrow());
}

#[tokio::test]
async fn the_first_one_keeps_a_name_a_vtep_and_a_mac() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 2);
    one.sees("itself", |view| view.hosts.len() == 1).await;
    // Another host of the same name; a third one with the same VTEP; a fourth with a MAC that is taken.
    let mut two = Host::with(settings(&etcd.endpoint(), "h1"), says(2, 2));
    let view = two.sees("the name of another", |view| !view.refused.is_empty()).await;
    assert_eq!(
        (view.refused[0].key.as_str(), view.refused[0].why.as_str()),
        ("hosts/h1", "it is what this host is called, which is at 198.18.1.2, not 198.18.1.1")
    );
    let mut three = Host::with(settings(&etcd.endpoint(), "h3"), says(1, 0));
    let view = three.sees("its own VTEP", |view| !view.refused.is_empty()).await;
    assert!(view.refused.iter().any(|it| it.why == "its VTEP 198.18.1.1 is this host's"), "{view:?}");
    let mut four = Host::with(settings(&etcd.endpoint(), "h4"), says(4, 0));
    four.says.members = vec![member(1, 1)];
    four.cluster.say(four.says.clone());
    // Whose the MAC is for all others; at its own host a container stays where it is, and that is said.
    let view = four.sees("a conflict", |view| view.members.len() == 1 && !view.refused.is_empty()).await;
    assert_eq!(view.members[0].host, "h1");
    assert!(
        view.refused.iter().any(|it| it.why == "its MAC is that of a container of this host"),
        "{view:?}"
    );

    // They get what they want when it is free.
    one.cluster.leave().await;
    two.sees("its name", |view| view.hosts.iter().any(|host| host.me)).await;
    two.sees("the fourth's member", |view| view.members.iter().any(|it| it.host == "h4")).await;
}

#[tokio::test]
async fn the_first_one_says_what_a_network_is() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    one.sees("its network", |view| view.networks.len() == 1).await;
    let mut other = says(2, 0);
    other.networks =
        vec![network("blue", 100, "10.2.0.0/16", "10.2.0.1"), network("red", 101, "10.3.0.0/16", "10.3.0.1")];
    let mut two = Host::with(settings(&etcd.endpoint(), "h2"), other);
    let view = two.sees("how it differs", |view| !view.refused.is_empty() && view.networks.len() == 1).await;
    assert_eq!(view.refused[0].key, "networks/blue");
    assert_eq!(
        view.refused[0].why,
        "`subnet` is 10.1.0.0/16 there and 10.2.0.0/16 here; `gateway` is 10.1.0.1 there and 10.2.0.1 here"
    );
    // Who has nothing of its own is told of both.
    let mut three = Host::with(settings(&etcd.endpoint(), "h3"), says(3, 0));
    three.says.networks.clear();
    three.cluster.say(three.says.clone());
    let view = three.sees("both networks", |view| view.networks.len() == 2).await;
    assert_eq!(view.networks.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["blue", "red"]);
    // A network stays when all hosts are gone.
    one.cluster.leave().await;
    two.cluster.leave().await;
    let view = three.sees("nobody else", |view| view.hosts.len() == 1).await;
    assert_eq!(view.networks.len(), 2);
}

#[tokio::test]
async fn without_etcd_it_says_why_and_joins_when_it_comes() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.kill();
    let mut one = Host::start(&etcd.endpoint(), 1, 1);
    let view = one
        .sees("a failure", |view| matches!(&view.state, State::Never { why } if why.contains("refused")))
        .await;
    assert!(view.counters.failed > 0);
    let claimed = one.claim("10.1.0.9".parse().unwrap(), "web").await;
    assert!(matches!(claimed, vswitchd::cluster::Claimed::Unreachable { .. }), "{claimed:?}");
    etcd.run().await;
    one.sees("etcd", |view| connected(view) && view.hosts.len() == 1).await;
}

#[tokio::test]
async fn the_second_end_point_serves_when_the_first_does_not() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut settings = settings(&etcd.endpoint(), "h1");
    settings.etcd.insert(0, "http://127.0.0.1:9".into()); // discard: nobody is there
    let mut one = Host::with(settings, says(1, 1));
    let view = one.sees("etcd", |view| connected(view)).await;
    let State::Connected { endpoint, .. } = &view.state else { panic!("{view:?}") };
    assert_eq!(*endpoint, etcd.endpoint());
}
