//! etcd goes, comes back, comes back empty, and forgets; nobody who lives is withdrawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::DeleteOptions;
use tokio::sync::watch;
use tokio::time::timeout;
use vswitchd::cluster::{Claimed, State, View};

use super::etcd::Etcd;
use super::host::{Host, TTL, blue, connected, member};
use super::proxy::Proxy;

/// The fewest members that any view had since.
struct Fewest(Arc<AtomicUsize>, tokio::task::JoinHandle<()>);

impl Fewest {
    fn of(host: &Host) -> Self {
        let mut view: watch::Receiver<Arc<View>> = host.view.clone();
        let fewest = Arc::new(AtomicUsize::new(view.borrow_and_update().members.len()));
        let seen = fewest.clone();
        let task = tokio::spawn(async move {
            while view.changed().await.is_ok() {
                seen.fetch_min(view.borrow_and_update().members.len(), Ordering::Relaxed);
            }
        });
        Self(fewest, task)
    }

    fn seen(self) -> usize {
        self.1.abort();
        self.0.load(Ordering::Relaxed)
    }
}

fn lost(view: &View) -> bool {
    matches!(view.state, State::Lost { .. })
}

/// So many leases pass, in which the view must not become like that.
async fn never(host: &mut Host, leases: u32, bad: impl FnMut(&Arc<View>) -> bool) {
    let time = Duration::from_secs((leases * TTL).into());
    let found = timeout(time, host.view.wait_for(bad)).await.is_ok();
    assert!(!found, "{:?}", host.view.borrow());
}

#[tokio::test]
async fn etcd_that_is_away_for_long_and_comes_back_changes_nothing() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 10);
    let mut two = Host::start(&etcd.endpoint(), 2, 20);
    let before = one.sees_members(20).await;
    two.sees_members(10).await;
    let fewest = [Fewest::of(&one), Fewest::of(&two)];
    let (held, other) = ("10.1.0.77".parse().unwrap(), "10.1.0.78".parse().unwrap());
    assert_eq!(one.claim(held, "web").await, Claimed::Granted);
    etcd.kill();
    one.sees("the loss", |view| lost(view)).await;
    // What is ours stays ours, and of the rest nobody knows.
    assert_eq!(one.claim(held, "web").await, Claimed::Granted);
    assert!(matches!(one.claim(other, "web").await, Claimed::Unreachable { .. }));
    never(&mut one, 2, |view| !lost(view) || view.members.len() != 20).await;
    // What we say meanwhile is told then.
    one.says.members.push(member(1, 11));
    one.cluster.say(one.says.clone());
    etcd.run().await;
    one.sees("etcd", |view| connected(view)).await;
    two.sees("the eleventh", |view| connected(view) && view.members.len() == 11).await;
    let after = one.sees("nothing held", |view| view.held_until.is_none()).await;
    assert_eq!((&after.members, &after.hosts), (&before.members, &before.hosts));
    assert_eq!(fewest.map(Fewest::seen), [20, 10]);
}

#[tokio::test]
async fn etcd_that_comes_back_empty_withdraws_nobody_who_lives() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 10);
    let mut two = Host::start(&etcd.endpoint(), 2, 20);
    let three = Host::start(&etcd.endpoint(), 3, 5);
    one.sees_members(25).await;
    two.sees_members(15).await;
    let address = "10.1.0.77".parse().unwrap();
    assert_eq!(two.claim(address, "web").await, Claimed::Granted);
    let fewest = [Fewest::of(&one), Fewest::of(&two)];
    etcd.kill();
    etcd.empty();
    drop(three); // for good
    one.sees("the loss", |view| lost(view)).await;
    etcd.run().await;
    let view = one.sees("the empty store", |view| connected(view) && view.counters.emptied == 1).await;
    assert!(view.held_until.is_some() && view.members.len() == 25, "{:?}", view.hosts);
    // The one that is really gone goes with the end of the hold, and nobody else.
    let view = one.sees("the third gone", |view| view.members.len() == 20).await;
    assert!(view.held_until.is_none());
    assert_eq!(view.networks.as_ref(), [blue()]);
    two.sees_members(10).await;
    assert_eq!(fewest.map(Fewest::seen), [20, 10]);
    let taken = one.claim(address, "web").await;
    assert!(matches!(&taken, Claimed::Taken { by } if by.host == "h2"), "{taken:?}");
}

#[tokio::test]
async fn deleting_everything_withdraws_nobody() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 300);
    let mut two = Host::start(&etcd.endpoint(), 2, 200);
    one.sees_members(200).await;
    two.sees_members(300).await;
    let fewest = [Fewest::of(&one), Fewest::of(&two)];
    let mut client = etcd.client().await;
    let deleted = client.delete("/vswitch", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    assert_eq!(deleted.deleted(), 2 + 1 + 500);
    for host in [&mut one, &mut two] {
        host.sees("the deletion", |view| view.counters.emptied > 0).await;
        let back = |view: &Arc<View>| view.hosts.iter().all(|host| !host.held) && view.held_until.is_none();
        host.sees("all back", back).await;
    }
    assert_eq!(fewest.map(Fewest::seen), [200, 300]);
    let count = client.get("/vswitch", Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(count.count(), 2 + 1 + 500);
}

#[tokio::test]
async fn a_host_cut_off_for_longer_than_its_lease_comes_back() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let mut one = Host::start(&etcd.endpoint(), 1, 10);
    let mut two = Host::start(&proxy.endpoint(), 2, 20);
    one.sees_members(20).await;
    two.sees_members(10).await;
    let fewest = Fewest::of(&two);
    let address = "10.1.0.77".parse().unwrap();
    assert_eq!(two.claim(address, "web").await, Claimed::Granted);
    proxy.set(false);
    // For the others it is gone, and what it holds is free; it knows what it knew.
    one.sees_members(0).await;
    assert_eq!(one.claim(address, "db").await, Claimed::Granted);
    two.sees("the loss", |view| lost(view)).await;
    proxy.set(true);
    let view = two.sees("etcd", |view| connected(view) && view.addresses.len() == 1).await;
    assert_eq!(view.counters.leases_lost, 1);
    let owner = view.addresses.values().next().unwrap();
    assert_eq!(owner.host, "h1", "the first one keeps it");
    one.sees_members(20).await;
    assert_eq!(fewest.seen(), 10);
}

#[tokio::test]
async fn all_cut_off_for_longer_than_their_leases_do_not_withdraw_each_other() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let mut hosts: Vec<_> = (1..=3).map(|n| Host::start(&proxy.endpoint(), n, 10)).collect();
    for host in &mut hosts {
        host.sees_members(20).await;
    }
    let fewest: Vec<_> = hosts.iter().map(Fewest::of).collect();
    proxy.set(false);
    never(&mut hosts[0], 3, |view| view.members.len() != 20).await;
    proxy.set(true);
    for host in &mut hosts {
        host.sees("all of it", |view| {
            connected(view) && view.held_until.is_none() && view.hosts.iter().all(|host| !host.held)
        })
        .await;
    }
    assert_eq!(fewest.into_iter().map(Fewest::seen).collect::<Vec<_>>(), [20, 20, 20]);
}

#[tokio::test]
async fn compaction_is_no_loss() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(&etcd.endpoint()).await;
    let mut one = Host::start(&proxy.endpoint(), 1, 10);
    let mut two = Host::start(&etcd.endpoint(), 2, 20);
    one.sees_members(20).await;
    two.sees_members(10).await;
    // The first one misses changes, and their history is compacted away.
    proxy.set(false);
    two.says.members.truncate(15);
    two.says.members.push(member(2, 99));
    two.cluster.say(two.says.clone());
    let mut client = etcd.client().await;
    compact(&mut client).await;
    proxy.set(true);
    one.sees_members(16).await;

    // Compaction without end, while hosts join and change.
    let storm = tokio::spawn(async move {
        loop {
            client.put("/other", "x", None).await.unwrap();
            compact(&mut client).await;
        }
    });
    let mut three = Host::start(&etcd.endpoint(), 3, 1500);
    one.sees_members(1516).await;
    three.sees_members(26).await;
    let mut four = Host::start(&etcd.endpoint(), 4, 1);
    four.sees_members(1526).await;
    assert!(!storm.is_finished(), "{:?}", storm.await);
    storm.abort();
}

async fn compact(client: &mut etcd_client::Client) {
    let now = client.get("/other", None).await.unwrap().header().unwrap().revision();
    // Another one may have been faster.
    let _ = client.compact(now, None).await;
}
