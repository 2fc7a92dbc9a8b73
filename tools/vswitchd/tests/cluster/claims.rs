//! Addresses: no two hosts ever have the same one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vswitchd::cluster::{Claimed, Owner};

use super::etcd::Etcd;
use super::host::{Host, TTL, connected};

fn address(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::from([10, 1, high, low])
}

/// Claims all of them at once; those that were granted.
async fn grab(host: &Host, who: &str, wanted: impl Iterator<Item = u16>) -> BTreeMap<u16, Claimed> {
    let claims = wanted.map(|n| async move { (n, host.claim(address(n), &format!("{who}-{n}")).await) });
    futures_util::future::join_all(claims).await.into_iter().collect()
}

#[tokio::test]
async fn two_hosts_that_race_never_get_the_same() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    let mut two = Host::start(&etcd.endpoint(), 2, 0);
    one.sees("two", |view| view.hosts.len() == 2).await;
    two.sees("one", |view| view.hosts.len() == 2).await;
    let (first, second) = tokio::join!(grab(&one, "a", 1..=1000), grab(&two, "b", (1..=1000).rev()));
    let mut granted = 0;
    for (n, mine) in &first {
        match (mine, &second[n]) {
            (Claimed::Granted, Claimed::Taken { by }) => {
                assert_eq!((by.host.as_str(), by.container.as_str()), ("h1", format!("a-{n}").as_str()));
                granted += 1;
            }
            (Claimed::Taken { by }, Claimed::Granted) => assert_eq!(by.host, "h2"),
            other => panic!("{n}: {other:?}"),
        }
    }
    assert!((1..1000).contains(&granted), "it was no race: {granted}");
    let view = one.sees("all of them", |view| view.addresses.len() == 1000).await;
    let ours = view.addresses.values().filter(|owner| owner.host == "h1").count();
    assert_eq!(ours, granted);
}

#[tokio::test]
async fn an_address_is_free_when_it_is_given_back_and_when_its_host_is_gone() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    let two = Host::start(&etcd.endpoint(), 2, 0);
    one.sees("two", |view| view.hosts.len() == 2).await;
    assert_eq!(two.claim(address(5), "web").await, Claimed::Granted);
    assert_eq!(two.claim(address(6), "db").await, Claimed::Granted);
    // Twice is once; for another interface it is taken, by ourselves.
    assert_eq!(two.claim(address(5), "web").await, Claimed::Granted);
    let by = Owner { host: "h2".into(), container: "web".into(), interface: "eth0".into() };
    assert_eq!(two.claim(address(5), "other").await, Claimed::Taken { by: by.clone() });
    assert_eq!(one.claim(address(5), "web").await, Claimed::Taken { by });

    two.cluster.release(vec![("blue".into(), address(5))]);
    one.sees("one address less", |view| view.addresses.len() == 1).await;
    assert_eq!(one.claim(address(5), "web").await, Claimed::Granted);
    drop(two);
    one.sees("the other host gone", |view| view.hosts.len() == 1).await;
    assert_eq!(one.claim(address(6), "web2").await, Claimed::Granted);
}

#[tokio::test]
async fn a_host_that_is_started_again_finds_its_own() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    one.sees("etcd", |view| connected(view)).await;
    assert_eq!(one.claim(address(5), "web").await, Claimed::Granted);
    drop(one);
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    one.sees("etcd", |view| connected(view)).await;
    assert_eq!(one.claim(address(5), "web").await, Claimed::Granted);
    let mut two = Host::start(&etcd.endpoint(), 2, 0);
    two.sees("etcd", |view| view.hosts.len() == 2).await;
    // It outlives the lease of the first life.
    let gone = two.view.wait_for(|view| view.addresses.is_empty() || view.hosts.len() < 2);
    let lease = std::time::Duration::from_secs((2 * TTL).into());
    assert!(tokio::time::timeout(lease, gone).await.is_err());
    assert!(matches!(two.claim(address(5), "web").await, Claimed::Taken { .. }));
}

#[tokio::test]
async fn who_does_not_wait_for_the_answer_holds_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let mut one = Host::start(&etcd.endpoint(), 1, 0);
    let mut two = Host::start(&etcd.endpoint(), 2, 0);
    two.sees("one", |view| view.hosts.len() == 2).await;
    one.sees("two", |view| view.hosts.len() == 2).await;
    for n in 1..=20 {
        // Given up in the middle of it, by what is nearly never ready before.
        tokio::select! {
            biased;
            _ = one.claim(address(n), "web") => {}
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(one.claim(address(99), "web").await, Claimed::Granted);
    // What was given up goes one after the other.
    let granted = async {
        while two.claim(address(7), "web").await != Claimed::Granted {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(super::etcd::PATIENCE, granted).await.is_ok());
    two.sees("two addresses only", |view| view.addresses.len() == 2).await;
}

#[tokio::test]
async fn a_host_with_the_name_of_another_claims_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let one = Host::start(&etcd.endpoint(), 1, 0);
    assert_eq!(one.claim(address(5), "web").await, Claimed::Granted);
    let mut says = super::host::says(2, 0);
    says.networks.clear();
    let two = Host::with(super::host::settings(&etcd.endpoint(), "h1"), says);
    for ip in [address(5), address(6)] {
        let claimed = two.claim(ip, "web").await;
        let why = "another host is called `h1`".to_owned();
        assert_eq!(claimed, Claimed::Unreachable { why });
    }
    one.cluster.leave().await;
    // Once the name is free it is as any other host.
    let deadline = std::time::Instant::now() + super::etcd::PATIENCE;
    while two.claim(address(5), "web").await != Claimed::Granted {
        assert!(std::time::Instant::now() < deadline, "{:?}", two.view.borrow());
        tokio::task::yield_now().await;
    }
}
