//! The keeper's work in namespaces, as root on a real kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail loudly too"
)]

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use switch::sys::{caps, fds};
use vswitchd::keeper::Host;
use vswitchd::wire::{AttachSpec, NetnsRef, RefusalKind};

/// A name that nobody else on the machine uses.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vst{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A host with a state folder of its own; gone with everything it made.
struct Lab {
    host: Host,
    state: PathBuf,
}

impl Lab {
    /// `None`, said loudly, where there is no root; that is a failure in CI.
    fn new() -> Option<Self> {
        if !caps::may_administer().unwrap() {
            assert!(std::env::var("CI").is_err(), "these tests need root in CI");
            println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
            return None;
        }
        let state = std::env::temp_dir().join(unique());
        std::fs::create_dir(&state).unwrap();
        Some(Self { host: Host::new(&state).unwrap(), state })
    }

    fn attach(&self, spec: &AttachSpec) -> OwnedFd {
        self.host.attach(spec).unwrap().0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.host.release_all();
        std::fs::remove_dir_all(&self.state).unwrap();
    }
}

/// A namespace made by `ip netns add`.
struct Named(String);

impl Named {
    fn new() -> Self {
        let name = unique();
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if self.path().exists() {
            ip(&["netns", "del", &self.0]);
        }
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn spec(name: &str) -> AttachSpec {
    AttachSpec {
        container: name.to_owned(),
        netns: NetnsRef::Name(name.to_owned()),
        create: false,
        ifname: "eth0".to_owned(),
        mac: "02:42:0a:01:00:0a".to_owned(),
        mtu: 1400,
        gso_max_size: None,
        addresses: vec![(address("10.1.0.10"), 24), (address("fd00:1::a"), 64)],
        default_via: vec![address("10.1.0.1")],
        nic: false,
        vlan: None,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn an_interface_is_complete_when_the_answer_comes() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let (tap, info) = lab.host.attach(&spec(&there.0)).unwrap();
    let link = ip(&["-n", &there.0, "-o", "link", "show", "eth0"]);
    for part in ["02:42:0a:01:00:0a", "mtu 1400", "state UP", "LOWER_UP"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    let addresses = ip(&["-n", &there.0, "-o", "address"]);
    for part in ["10.1.0.10/24", "fd00:1::a/64", "127.0.0.1/8"] {
        assert!(addresses.contains(part), "{part} in {addresses}");
    }
    let ours = addresses.lines().find(|line| line.contains("fd00:1::a/64")).unwrap();
    assert!(!ours.contains("tentative"), "{addresses}");
    assert!(ip(&["-n", &there.0, "route"]).contains("default via 10.1.0.1 dev eth0"));
    assert!(link.starts_with(&format!("{}:", info.ifindex)), "{} in {link}", info.ifindex);
    assert!(!info.created && info.offloads != 0);
    assert_eq!(info.netns_id, switch::sys::netns::identity_of(&there.path()).unwrap());
    assert_eq!(switch::sys::tun::name(&tap).unwrap(), "eth0");
    // The descriptor works: ask from inside, see the ARP request on the TAP.
    let _asking = Process(
        Command::new("ip")
            .args(["netns", "exec", &there.0, "ping", "-c1", "-W1", "10.1.0.77"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    until("an ARP request for 10.1.0.77", || {
        let mut frame = [0; 2048];
        let n = rustix::io::read(&tap, &mut frame).unwrap_or(0);
        n >= 10 + 42 && frame[22..24] == [8, 6] && frame[48..52] == [10, 1, 0, 77]
    });
}

#[test]
fn the_death_of_a_namespace_is_seen_and_it_is_not_kept_alive() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let tap = lab.attach(&spec(&there.0));
    ip(&["netns", "del", &there.0]);
    // Readable is asked for, as a worker does: the driver wakes nobody who waits for errors alone.
    until("POLLERR", || {
        let mut set = [PollFd::new(&tap, PollFlags::IN)];
        poll(&mut set, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        let _drained = rustix::io::read(&tap, &mut [0; 2048]);
        set[0].revents().contains(PollFlags::ERR)
    });
    assert!(lab.host.adoptable().unwrap().is_empty(), "a dead TAP is not adopted");
    assert_eq!(lab.host.adjust(&spec(&there.0)).unwrap_err().kind, RefusalKind::Absent);
    assert_eq!(lab.host.attach(&spec(&there.0)).unwrap_err().kind, RefusalKind::Absent);
    // It comes back under the same name, and so does the interface.
    ip(&["netns", "add", &there.0]);
    assert!(fds::is_alive(lab.attach(&spec(&there.0))).unwrap());
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let bad = AttachSpec { addresses: vec![(address("10.1.0.10"), 99)], ..spec(&there.0) };
    let refusal = lab.host.attach(&bad).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Failed, "{refusal}");
    assert!(!ip(&["-n", &there.0, "link"]).contains("eth0"));
    assert!(lab.host.attach(&AttachSpec { mac: "nonsense".into(), ..spec(&there.0) }).is_err());

    // A namespace that this very call made goes too; its mark with it.
    let name = unique();
    let bad = AttachSpec { create: true, mtu: 1_000_000, ..spec(&name) };
    assert_eq!(lab.host.attach(&bad).unwrap_err().kind, RefusalKind::Failed);
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert_eq!(std::fs::read_dir(lab.state.join("netns")).unwrap().count(), 0);
}

#[test]
fn a_name_that_is_taken_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    ip(&["-n", &there.0, "link", "add", "eth0", "type", "veth", "peer", "name", "other0"]);
    let refusal = lab.host.attach(&spec(&there.0)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
    assert!(refusal.to_string().contains("\"eth0\""), "{refusal}");
    assert!(ip(&["-n", &there.0, "-d", "link", "show", "eth0"]).contains("veth"));
}

#[test]
fn namespaces_are_found_by_path_and_pid_too() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let by_path = AttachSpec { netns: NetnsRef::Path(there.path()), ..spec(&there.0) };
    lab.attach(&by_path);
    let mut inside =
        Process(Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped()).spawn().unwrap());
    let host = switch::sys::netns::identity_of(Path::new("/proc/self/ns/net")).unwrap();
    let pid = inside.0.id();
    let net = PathBuf::from(format!("/proc/{pid}/ns/net"));
    until("unshare", || switch::sys::netns::identity_of(&net).is_ok_and(|id| id != host));
    let by_pid = AttachSpec { netns: NetnsRef::Pid(pid), ifname: "net7".into(), ..spec("by-pid") };
    let tap = lab.attach(&by_pid);
    let target = lab.host.locate("by-pid", &by_pid.netns).unwrap();
    assert_eq!((target.net_ns, target.user_ns), (net, None));
    inside.0.kill().unwrap();
    inside.0.wait().unwrap();
    until("the TAP of a dead process", || !fds::is_alive(&tap).unwrap());

    let kind = |netns| lab.host.attach(&AttachSpec { netns, ..spec("x") }).unwrap_err().kind;
    assert_eq!(kind(NetnsRef::Pid(u32::MAX)), RefusalKind::Absent);
    assert_eq!(kind(NetnsRef::Path("/nonexistent".into())), RefusalKind::Absent);
    assert_eq!(kind(NetnsRef::Path("/proc/self/ns/mnt".into())), RefusalKind::Failed);
    assert_eq!(kind(NetnsRef::Name("../../proc/self/ns/net".into())), RefusalKind::Failed);
    assert_eq!(kind(NetnsRef::Pid(std::process::id())), RefusalKind::Failed, "the host's own");
    let alias = Named(unique());
    ip(&["netns", "attach", &alias.0, &std::process::id().to_string()]);
    for create in [false, true] {
        let own = AttachSpec { create, ..spec(&alias.0) };
        let refusal = lab.host.attach(&own).unwrap_err();
        assert!(refusal.to_string().contains("the host's own"), "{refusal}");
    }
}

#[test]
fn a_name_without_a_namespace_on_it_is_awaited() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    // As in the middle of `ip netns add`: the file is there, the mount is not.
    let half = Path::new("/run/netns").join(unique());
    std::fs::write(&half, "").unwrap();
    let name = half.file_name().unwrap().to_str().unwrap();
    let refusal = lab.host.attach(&spec(name)).unwrap_err();
    std::fs::remove_file(&half).unwrap();
    assert_eq!(refusal.kind, RefusalKind::Absent, "{refusal}");
    drop(there);
}

#[test]
fn two_interfaces_in_one_container() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    lab.attach(&spec(&there.0));
    lab.attach(&AttachSpec {
        ifname: "eth1".into(),
        mac: "02:42:0a:02:00:0a".into(),
        addresses: vec![(address("10.2.0.10"), 24)],
        default_via: vec![address("10.2.0.1")],
        ..spec(&there.0)
    });
    let routes = ip(&["-n", &there.0, "route"]);
    assert!(routes.contains("default via 10.1.0.1 dev eth0 proto static \n"), "{routes}");
    assert!(
        routes.contains("default via 10.2.0.1 dev eth1 proto static metric "),
        "the second stands back: {routes}"
    );
    lab.host.detach(&there.0, "eth0");
    until("eth0 gone", || !ip(&["-n", &there.0, "link"]).contains("eth0"));
    assert!(ip(&["-n", &there.0, "link"]).contains("eth1"));
    lab.host.detach(&there.0, "eth0"); // twice is no error
}

#[test]
fn ipv6_is_switched_on_where_an_address_needs_it() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    // As Docker leaves its containers.
    ip(&["netns", "exec", &there.0, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    lab.attach(&AttachSpec { addresses: vec![(address("10.1.0.10"), 24)], ..spec(&there.0) });
    assert!(!ip(&["-n", &there.0, "address"]).contains("inet6"));
    lab.attach(&AttachSpec { ifname: "eth1".into(), default_via: Vec::new(), ..spec(&there.0) });
    assert!(ip(&["-n", &there.0, "-o", "address", "show", "dev", "eth1"]).contains("fd00:1::a/64"));
}

#[test]
fn an_interface_is_adjusted_in_place() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let old = spec(&there.0);
    let tap = lab.attach(&old);
    ip(&["-n", &there.0, "address", "add", "192.0.2.7/32", "dev", "eth0"]);
    let before = ip(&["-n", &there.0, "-o", "link", "show", "eth0"]);
    let new = AttachSpec {
        mac: "02:42:0a:01:00:0b".into(),
        mtu: 9000,
        addresses: vec![(address("10.1.0.11"), 24), (address("fd00:1::a"), 64)],
        default_via: vec![address("10.1.0.2")],
        ..old.clone()
    };
    lab.host.adjust(&new).unwrap();
    let link = ip(&["-n", &there.0, "-o", "link", "show", "eth0"]);
    assert!(link.contains("02:42:0a:01:00:0b") && link.contains("mtu 9000"), "{link}");
    assert_eq!(before.split(':').next(), link.split(':').next(), "the same interface");
    let addresses = ip(&["-n", &there.0, "-o", "address", "show", "dev", "eth0"]);
    assert!(addresses.contains("10.1.0.11/24") && addresses.contains("fd00:1::a/64"), "{addresses}");
    assert!(addresses.contains("192.0.2.7/32"), "what others added stays: {addresses}");
    assert!(!addresses.contains("10.1.0.10/24"), "{addresses}");
    assert!(ip(&["-n", &there.0, "route"]).contains("default via 10.1.0.2 dev eth0"));
    assert!(fds::is_alive(&tap).unwrap());
    // Renamed by the container, it is still found.
    ip(&["-n", &there.0, "link", "set", "eth0", "down"]);
    ip(&["-n", &there.0, "link", "set", "eth0", "name", "lan"]);
    lab.host.adjust(&old).unwrap();
    assert!(ip(&["-n", &there.0, "-o", "link", "show", "lan"]).contains("mtu 1400"));
}

/// A network on several hosts wants super-frames that one send takes; one that is on a single host again has no wishes.
#[test]
fn super_frames_are_as_long_as_the_network_likes() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let longest = || {
        let link = ip(&["-n", &there.0, "-d", "-o", "link", "show", "eth0"]);
        let mut words = link.split_whitespace().skip_while(|word| *word != "gso_max_size");
        words.nth(1).map(str::to_owned)
    };
    let _tap = lab.attach(&AttachSpec { gso_max_size: Some(61_833), ..spec(&there.0) });
    assert_eq!(longest().as_deref(), Some("61833"));
    lab.host.adjust(&AttachSpec { gso_max_size: Some(40_000), ..spec(&there.0) }).unwrap();
    assert_eq!(longest().as_deref(), Some("40000"));
    lab.host.adjust(&spec(&there.0)).unwrap();
    assert_eq!(longest().as_deref(), Some("65536"));
}

#[test]
fn an_address_that_changes_takes_neither_its_neighbour_nor_the_routes_along() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let with = |addresses: &[(&str, u8)]| AttachSpec {
        addresses: addresses.iter().map(|(text, prefix)| (address(text), *prefix)).collect(),
        ..spec(&there.0)
    };
    let look = || {
        let addresses = ip(&["-n", &there.0, "-4", "-o", "address", "show", "dev", "eth0"]);
        let all: Vec<_> = addresses.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        (all.join(" "), ip(&["-n", &there.0, "route", "show", "default"]))
    };
    let route = "default via 10.1.0.1 dev eth0 proto static \n".to_owned();
    lab.attach(&with(&[("10.1.0.10", 24), ("10.1.0.20", 24)]));
    for (addresses, left) in [
        (&[("10.1.0.11", 24), ("10.1.0.20", 24)][..], "10.1.0.11/24 10.1.0.20/24"), // the first went
        (&[("10.1.0.11", 24), ("10.1.0.21", 24)], "10.1.0.11/24 10.1.0.21/24"),     // the second
        (&[("10.1.0.21", 24)], "10.1.0.21/24"),
        (&[("10.1.0.22", 24)], "10.1.0.22/24"), // all of them
    ] {
        lab.host.adjust(&with(addresses)).unwrap();
        assert_eq!(look(), (left.to_owned(), route.clone()));
    }
}

#[test]
fn router_advertisements_are_ignored_where_addresses_are_ours() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let knob = |which: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{which}");
        ip(&["netns", "exec", &there.0, "cat", &path]).trim().to_owned()
    };
    let both = spec(&there.0);
    let v4 = AttachSpec { addresses: vec![(address("10.1.0.10"), 24)], ..both.clone() };
    let _tap = lab.attach(&v4);
    let by_default = knob("accept_ra");
    assert_ne!(by_default, "0", "this kernel has another default than others");
    let via = vec![address("10.1.0.1"), address("fd00:1::1")];
    lab.host.adjust(&AttachSpec { default_via: via, ..both }).unwrap();
    assert_eq!((knob("accept_ra"), knob("keep_addr_on_down")), ("0".into(), "1".into()));
    assert!(ip(&["-n", &there.0, "-6", "route"]).contains("default via fd00:1::1 dev eth0"));
    lab.host.adjust(&v4).unwrap();
    assert_eq!((knob("accept_ra"), knob("keep_addr_on_down")), (by_default, "0".into()));
    let addresses = ip(&["-n", &there.0, "-6", "-o", "address", "show", "dev", "eth0", "scope", "global"]);
    assert_eq!(addresses, "");
    assert_eq!(ip(&["-n", &there.0, "-6", "route", "show", "default"]), "");
    assert!(ip(&["-n", &there.0, "route"]).contains("default via 10.1.0.1 dev eth0"));
}

#[test]
fn there_is_one_default_route_however_often_it_is_adjusted() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    ip(&["-n", &there.0, "link", "add", "ext", "up", "type", "veth", "peer", "name", "peer"]);
    ip(&["-n", &there.0, "link", "set", "peer", "up"]);
    ip(&["-n", &there.0, "route", "add", "default", "dev", "ext"]);
    let others = |routes: &str| routes.contains("default dev ext scope link \n");
    let routes = || ip(&["-n", &there.0, "route", "show", "default"]);
    lab.attach(&spec(&there.0));
    let first = routes();
    assert!(others(&first) && first.contains("via 10.1.0.1 dev eth0 proto static metric "), "{first}");
    lab.host.adjust(&AttachSpec { mtu: 1300, ..spec(&there.0) }).unwrap();
    assert_eq!(routes(), first, "nothing to change");
    // With another gateway ours is replaced, at whatever metric it is.
    let moved = AttachSpec { default_via: vec![address("10.1.0.2")], ..spec(&there.0) };
    lab.host.adjust(&moved).unwrap();
    assert_eq!(routes(), first.replace("10.1.0.1", "10.1.0.2"));
    ip(&["-n", &there.0, "route", "del", "default", "dev", "ext"]);
    lab.host.adjust(&spec(&there.0)).unwrap();
    assert_eq!(routes(), "default via 10.1.0.1 dev eth0 proto static \n");
    lab.host.adjust(&AttachSpec { mtu: 1300, ..spec(&there.0) }).unwrap();
    lab.host.adjust(&AttachSpec { default_via: Vec::new(), ..spec(&there.0) }).unwrap();
    assert_eq!(routes(), "");
    let v6 = || ip(&["-n", &there.0, "-6", "route", "show", "default"]);
    let via6 = |last: &str| AttachSpec { default_via: vec![address(last)], ..spec(&there.0) };
    lab.host.adjust(&via6("fd00:1::1")).unwrap();
    lab.host.adjust(&via6("fd00:1::2")).unwrap();
    lab.host.adjust(&AttachSpec { mtu: 1300, ..via6("fd00:1::2") }).unwrap();
    let v6 = v6();
    assert!(v6.lines().count() == 1 && v6.contains("via fd00:1::2 dev eth0"), "{v6}");
}

#[test]
fn asked_again_the_same_interface_is_handed_out() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    let (_, first) = lab.host.attach(&spec(&there.0)).unwrap();
    let changed = AttachSpec { mtu: 1300, ..spec(&there.0) };
    let (_, second) = lab.host.attach(&changed).unwrap();
    assert_eq!(first, second);
    assert!(ip(&["-n", &there.0, "-o", "link", "show", "eth0"]).contains("mtu 1300"));
    let adoptable = lab.host.adoptable().unwrap();
    assert_eq!(adoptable.len(), 1);
    assert_eq!((&adoptable[0].1, &adoptable[0].2), (&changed, &first));
}

#[test]
fn a_namespace_of_ours_looks_like_one_of_ip_netns_and_goes_with_its_last_container() {
    let Some(lab) = Lab::new() else { return };
    let name = unique();
    let create = AttachSpec { create: true, ..spec(&name) };
    let (_, info) = lab.host.attach(&create).unwrap();
    assert!(info.created);
    assert!(ip(&["netns", "list"]).lines().any(|line| line.split(' ').next() == Some(&name)));
    assert!(ip(&["-n", &name, "-o", "address"]).contains("10.1.0.10/24"));
    // A second container in the same one.
    lab.host.netns("other", &NetnsRef::Name(name.clone()), true).unwrap();
    lab.host.release(&name);
    assert!(Path::new("/run/netns").join(&name).exists());
    lab.host.release("other");
    assert!(!Path::new("/run/netns").join(&name).exists());

    // One that was there already is used, and stays.
    let there = Named::new();
    let (_, info) = lab.host.attach(&AttachSpec { create: true, ..spec(&there.0) }).unwrap();
    assert!(!info.created);
    lab.host.release(&there.0);
    assert!(there.path().exists());
}

#[test]
fn one_of_ours_that_was_deleted_behind_our_back_is_made_again() {
    let Some(lab) = Lab::new() else { return };
    let name = unique();
    let create = AttachSpec { create: true, ..spec(&name) };
    let tap = lab.attach(&create);
    ip(&["netns", "del", &name]);
    let mut set = [PollFd::from_borrowed_fd(lab.host.removals().unwrap(), PollFlags::IN)];
    assert_eq!(poll(&mut set, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })), Ok(1));
    lab.host.bury();
    assert!(!fds::is_alive(&tap).unwrap(), "it says what it says when a namespace dies");
    assert!(fds::is_alive(lab.attach(&create)).unwrap());
    lab.host.release(&name);
    assert!(!Path::new("/run/netns").join(&name).exists());
    assert_eq!(std::fs::read_dir(lab.state.join("netns")).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_is_removed_and_only_that() {
    let Some(lab) = Lab::new() else { return };
    let (ours, taken_over) = (unique(), Named::new());
    lab.host.netns(&ours, &NetnsRef::Name(ours.clone()), true).unwrap();
    // A mark that names a namespace of somebody else, as after `ip netns del` and `ip netns add` behind our back.
    let marks = lab.state.join("netns");
    std::fs::copy(marks.join(&ours), marks.join(&taken_over.0)).unwrap();
    std::fs::write(marks.join("garbage"), "not a mark").unwrap();
    let next = Host::new(&lab.state).unwrap(); // as if the first had crashed
    assert!(!Path::new("/run/netns").join(&ours).exists());
    assert!(taken_over.path().exists(), "not ours");
    assert_eq!(std::fs::read_dir(&marks).unwrap().count(), 0);
    next.release_all();
}

#[test]
fn interfaces_in_namespaces_of_others_go_when_everything_is_released() {
    let Some(lab) = Lab::new() else { return };
    let there = Named::new();
    for number in 0..40 {
        lab.attach(&AttachSpec {
            ifname: format!("net{number}"),
            addresses: vec![],
            default_via: Vec::new(),
            ..spec(&there.0)
        });
    }
    let start = Instant::now();
    lab.host.release_all();
    println!("40 closed: {:?}", start.elapsed());
    let left = ip(&["-n", &there.0, "-o", "link"]);
    assert_eq!(left.lines().count(), 1, "{left}");
}

#[test]
fn docker_that_is_not_there_is_refused_in_words() {
    let Some(lab) = Lab::new() else { return };
    let nowhere = AttachSpec { netns: NetnsRef::Docker(unique()), ..spec("web") };
    let refusal = lab.host.attach(&nowhere).unwrap_err();
    // No program, no daemon, or no such container: whatever this machine has.
    assert!(matches!(refusal.kind, RefusalKind::Failed | RefusalKind::Absent), "{refusal}");
    assert!(refusal.to_string().contains("of docker: "), "{refusal}");
    println!("{refusal}");
}

#[test]
fn many_containers_come_up_together() {
    let Some(lab) = Lab::new() else { return };
    let names: Vec<_> = (0..64).map(|_| unique()).collect();
    let start = Instant::now();
    let lab = &lab;
    std::thread::scope(|scope| {
        for part in names.chunks(16) {
            scope.spawn(move || {
                for name in part {
                    lab.attach(&AttachSpec { create: true, ..spec(name) });
                }
            });
        }
    });
    println!("64 containers: {:?}", start.elapsed());
    assert_eq!(lab.host.adoptable().unwrap().len(), 64);
    for name in &names {
        assert!(ip(&["-n", name, "-o", "link", "show", "eth0"]).contains("state UP"));
    }
    let start = Instant::now();
    lab.host.release_all();
    println!("and gone: {:?}", start.elapsed());
    assert!(names.iter().all(|name| !Path::new("/run/netns").join(name).exists()));
}
