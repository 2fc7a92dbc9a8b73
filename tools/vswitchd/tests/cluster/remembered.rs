//! Hosts that are started again while etcd is away, or not what it was: what was known before is known until it answers.

use std::sync::Arc;

use vswitchd::cluster::{Memory, State, View};

use super::etcd::Etcd;
use super::host::{Host, connected, hosts, says, settings};

/// What the first host of two writes down: who is behind the second.
async fn known(etcd: &Etcd) -> (Memory, Host) {
    let mut one = Host::start(&etcd.endpoint(), 1, 10);
    let two = Host::start(&etcd.endpoint(), 2, 20);
    let view = one.sees_members(20).await;
    (Memory::of(&settings(&etcd.endpoint(), "h1"), &view), two)
}

fn again(etcd: &Etcd, memory: &Memory) -> Host {
    Host::remembering(settings(&etcd.endpoint(), "h1"), says(1, 10), memory)
}

fn now(host: &Host) -> Arc<View> {
    host.view.borrow().clone()
}

/// Both are in the store again, and nobody was withdrawn meanwhile.
async fn come_back(one: &mut Host, two: &mut Host) {
    let mut fewest = usize::MAX;
    one.sees("all of it", |view| {
        fewest = fewest.min(view.members.len());
        connected(view) && view.held_until.is_none() && view.hosts.len() == 2
    })
    .await;
    assert_eq!(fewest, 20);
    two.sees_members(10).await;
}

#[tokio::test]
async fn a_host_that_starts_without_etcd_knows_the_others() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (memory, mut two) = known(&etcd).await;
    etcd.kill();
    let mut one = again(&etcd, &memory);
    let view = now(&one);
    assert!(matches!(view.state, State::Remembered { .. }), "{:?}", view.state);
    assert_eq!((view.members.len(), hosts(&view), view.networks.len()), (20, vec!["h2"], 1));
    assert_eq!(view.refused.len(), 0);
    let tried =
        |view: &Arc<View>| matches!(&view.state, State::Remembered { why } if why.contains("refused"));
    let view = one.sees("an attempt", tried).await;
    assert_eq!(view.members.len(), 20);
    // Both come back to the store after their leases: nobody is withdrawn meanwhile.
    etcd.run().await;
    come_back(&mut one, &mut two).await;
}

#[tokio::test]
async fn who_is_gone_since_goes_and_an_emptied_store_withdraws_nobody() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (memory, two) = known(&etcd).await;
    two.cluster.leave().await;
    let mut one = again(&etcd, &memory);
    // One lease is waited for: it may be on its way back as we are.
    let view = one.sees("etcd", |view| connected(view)).await;
    assert!(view.held_until.is_some() && view.members.len() == 20, "{view:?}");
    one.sees_members(0).await;
    drop(one);

    let (memory, mut two) = known(&etcd).await;
    etcd.kill();
    etcd.empty();
    let mut one = again(&etcd, &memory);
    etcd.run().await;
    come_back(&mut one, &mut two).await;
}

#[tokio::test]
async fn another_cluster_is_not_remembered() {
    let Some(etcd) = Etcd::start().await else { return };
    let (memory, _two) = known(&etcd).await;
    let mut other = settings(&etcd.endpoint(), "h1");
    other.prefix = "/elsewhere".into();
    let mut renamed = settings(&etcd.endpoint(), "h9");
    renamed.etcd.push("http://127.0.0.1:1".into());
    let away = settings("http://127.0.0.1:1", "h1");
    for settings in [other, renamed, away] {
        let view = now(&Host::remembering(settings, says(1, 10), &memory));
        assert!(matches!(view.state, State::Never { .. }) && view.members.is_empty(), "{view:?}");
    }
    // More end points, one of which was there before: the same cluster.
    let mut more = settings(&etcd.endpoint(), "h1");
    more.etcd.insert(0, "http://127.0.0.1:1".into());
    let host = Host::remembering(more, says(1, 10), &memory);
    assert_eq!(now(&host).members.len(), 20);
}
