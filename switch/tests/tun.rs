//! TAP devices on a real kernel. Needs root (or a user namespace) and `/dev/net/tun`.

use std::os::fd::{AsFd, AsRawFd};

use switch::sys::tun::{self, TunError};
use switch::sys::{fds, netns};

/// A namespace for one test, or why not.
fn scratch() -> Option<std::os::fd::OwnedFd> {
    let made = netns::create().map_err(|errno| errno.to_string()).and_then(|fd| {
        netns::in_netns(fd.as_fd(), || tun::create("probe"))
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        Ok(fd)
    });
    match made {
        Ok(fd) => Some(fd),
        Err(why) => {
            assert!(std::env::var("CI").is_err(), "no TAP in a namespace of our own: {why}");
            println!("skipped: no TAP in a namespace of our own: {why}");
            None
        }
    }
}

#[test]
fn a_tap_has_a_name_offloads_and_a_carrier() {
    let Some(ns) = scratch() else { return };
    netns::in_netns(ns.as_fd(), || {
        let (fd, name) = tun::create("vs%d").unwrap();
        assert_eq!(name, "vs0");
        assert_eq!(tun::name(&fd).unwrap(), "vs0");
        let mask = tun::set_offloads(&fd).unwrap();
        assert_ne!(mask & tun::offload::CSUM, 0, "{mask:#x}");
        assert_ne!(mask & tun::offload::TSO4, 0, "{mask:#x}");
        tun::set_carrier(&fd, false).unwrap();
        tun::set_carrier(&fd, true).unwrap();
        let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert_eq!(rustix::io::read(&fd, &mut [0u8; 64]), Err(rustix::io::Errno::AGAIN));
    })
    .unwrap();
}

#[test]
fn an_interface_that_is_there_is_never_joined() {
    let Some(ns) = scratch() else { return };
    netns::in_netns(ns.as_fd(), || {
        let (first, _) = tun::create("eth0").unwrap();
        assert!(matches!(tun::create("eth0"), Err(TunError::Taken { name, .. }) if name == "eth0"));
        assert!(matches!(tun::create("a/b"), Err(TunError::Name(_))));
        drop(first);
        tun::create("eth0").unwrap();
    })
    .unwrap();
}

#[test]
fn a_tap_dies_with_the_namespace_it_lives_in() {
    let Some(home) = scratch() else { return };
    let away = netns::create().unwrap();
    let fd = netns::in_netns(home.as_fd(), || tun::create("tap0").unwrap().0).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), away.as_raw_fd());
    let moved = netns::in_netns(home.as_fd(), || {
        std::process::Command::new("ip")
            .args(["link", "set", "tap0", "netns", &path, "name", "eth0"])
            .status()
    });
    if !matches!(moved.unwrap(), Ok(status) if status.success()) {
        // `ip` opens the path itself; without it there is nothing to see here.
        assert!(std::env::var("CI").is_err(), "ip link set netns failed");
        println!("skipped: no usable iproute2");
        return;
    }
    assert!(fds::is_alive(&fd).unwrap());
    assert_eq!(tun::name(&fd).unwrap(), "eth0");
    drop(away);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fds::is_alive(&fd).unwrap() {
        assert!(std::time::Instant::now() < deadline, "the TAP outlived its namespace");
        std::thread::yield_now();
    }
    assert!(tun::name(&fd).is_err());
}

#[test]
fn nothing_stays_behind_in_a_namespace_that_was_entered() {
    let Some(ns) = scratch() else { return };
    let before = netns::identity(netns::current().unwrap()).unwrap();
    let inside = netns::in_netns(ns.as_fd(), || netns::identity(netns::current().unwrap()).unwrap()).unwrap();
    assert_eq!(inside, netns::identity(&ns).unwrap());
    assert_eq!(netns::identity(netns::current().unwrap()).unwrap(), before);
    assert_ne!(before, inside);
}
