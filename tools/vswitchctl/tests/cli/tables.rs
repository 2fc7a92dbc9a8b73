//! What `vswitchctl` prints, to the letter.

use crate::fake::{self, Daemon, texts};
use vswitchd::api::rows::{ClusterDetail, FdbRow, GroupRow, NetworkDetail, Status, VtepRow};
use vswitchd::api::{Answer, Reply, Request};

#[test]
fn fdb() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show fdb"),
        "\
PORT VLAN MAC               AGE NETWORK CONTAINER IFACE TYPE
   3    0 02:42:0a:01:00:0a   - blue    web       eth0  static
   4    0 02:42:0a:02:00:0a   0 red     x         eth0  dynamic
  12   10 02:42:0a:01:00:0b 297 blue    database  eth0  dynamic
"
    );
    assert_eq!(
        daemon.good("show fdb --network red"),
        "\
PORT VLAN MAC               AGE NETWORK CONTAINER IFACE TYPE
   4    0 02:42:0a:02:00:0a   0 red     x         eth0  dynamic
"
    );
    let header = "PORT VLAN MAC AGE NETWORK CONTAINER IFACE TYPE\n";
    assert_eq!(daemon.good("show fdb --network red --container web"), header);
    assert_eq!(daemon.good("--json show fdb --network red --container web"), "[]\n");
    for (line, what) in [
        ("show fdb --container none", "container"),
        ("--json show nat --container none", "container"),
        ("show stats --watch --network none", "network"),
    ] {
        let said = format!("vswitchctl: no {what} `none`: `vswitchctl show {what}s` lists those there are\n");
        let output = daemon.run(line);
        assert_eq!((output.status.code(), texts(&output)), (Some(1), (String::new(), said)), "{line}");
    }
    let rows: Vec<FdbRow> = serde_json::from_str(&daemon.good("show fdb --json")).unwrap();
    let mut wanted = fake::fdb();
    wanted.sort_by_key(|row| row.port);
    assert_eq!(rows, wanted);
}

#[test]
fn ports() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show ports"),
        "\
PORT NETWORK CONTAINER IFACE MAC               ADDRESSES                 VLAN                     ISOLATED STATE    MTU IO  GSO  RX-FRAMES RX-BYTES TX-FRAMES TX-BYTES DROPS REASON
   3 blue    web       eth0  02:42:0a:01:00:0a 10.1.0.10/24,fd00:1::a/64 -                        no       up      1500 tap full        12     3456         7      890     1 -
   - blue    db        eth0  02:42:0a:01:00:0a 10.1.0.10/24,fd00:1::a/64 trunk:20-22,40/native:10 yes      waiting 1500 tap off         12     3456         7      890     1 /run/netns/db: No such file or directory
"
    );
    assert_eq!(daemon.good("show ports --network red").lines().count(), 1);
}

#[test]
fn networks() {
    let daemon = Daemon::start();
    let table = "\
NAME SUBNET      VLAN  MTU ICC SPOOF   AGEING    FDB STORM PORTS ORIGIN
blue 10.1.0.0/24    - 1500 yes claimed    300 2/8192 10000     2 file
red  10.1.0.0/24    - 1500 yes claimed    300 2/8192 10000     2 file
";
    assert_eq!(daemon.good("network ls"), table);
    assert_eq!(daemon.good("show networks"), table);
    assert_eq!(daemon.good("network ls -q"), "blue\nred\n");
    assert_eq!(
        daemon.good("network inspect blue"),
        "\
name         blue
subnet       10.1.0.0/24
vlan         -
mtu          1500
icc          yes
spoof        claimed
transparent  no
snooping     no
ageing       300
storm        10000
origin       file

PORT NETWORK CONTAINER IFACE MAC               ADDRESSES                 VLAN ISOLATED STATE  MTU IO  GSO  RX-FRAMES RX-BYTES TX-FRAMES TX-BYTES DROPS REASON
   3 blue    web       eth0  02:42:0a:01:00:0a 10.1.0.10/24,fd00:1::a/64 -    no       up    1500 tap full        12     3456         7      890     1 -

ADDRESS    MAC               CLIENT         CONTAINER IFACE LEFT STATE
10.1.0.254 02:00:00:00:00:07 01020000000007 web       eth0  3599 bound

addresses used/room  2/253
free                 251
of them resting      4

current/max FDB entries  2/8192
static                   1
learned                  9
moved                    1
expired                  0
evicted                  0
refused                  0
"
    );
    let detail: NetworkDetail = serde_json::from_str(&daemon.good("network inspect blue --json")).unwrap();
    assert_eq!((detail.network.name.as_str(), detail.fdb.learned, detail.interfaces.len()), ("blue", 9, 1));
}

#[test]
fn containers_and_drops() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show containers"),
        "\
NAME NETNS      STATE INTERFACES COMMAND ORIGIN REASON
web  docker:web up    eth0,eth1  running api    -
db   docker:db  up    eth0,eth1  running api    -
x    docker:x   up    eth0,eth1  running api    -
"
    );
    assert_eq!(
        daemon.good("show drops"),
        "REASON FRAMES EXPLANATION\nstorm      17 beyond the port's limit\n"
    );
    assert_eq!(daemon.good("show drops --all").lines().count(), 3);
    assert_eq!(
        daemon.good("show drops --ports"),
        "\
PORT NETWORK CONTAINER IFACE REASON FRAMES EXPLANATION
   3 blue    web       eth0  storm      17 beyond the port's limit
"
    );
}

#[test]
fn status_and_config() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show status"),
        "\
version          0.1.0
pid              100
engine pid       101
uptime           3600 s
engine restarts  0
rootless         yes
capabilities     none
kernel           6.18.0
io               epoll (io = epoll)
offloads         csum tso4
gso writes       yes
workers          1
config           tools/labs/two-hosts.toml
generation       4
ports            2 up, 0 down, 1 waiting, 0 failed
uplink           sockets; 2 of 16384 connections; masked 3, opened 5
resolvers        none
names            0 asked by UDP, 0 by TCP: 0 answered, 0 forwarded (0 failed), 0 refused, 0 without a resolver, 0 over quota, 0 malformed
limits           4096 ports, 1024 networks, 65536 FDB entries, 65536 open files
overlay          vxlan at 198.18.1.1 port 4789, MTU 1500, many datagrams at once: yes (udp_gso = on); 7 datagrams received (1 with reserved bits), 0 frames were too big for a path
"
    );
    let status: Status = serde_json::from_str(&daemon.good("show status --json")).unwrap();
    assert_eq!(status.engine_pid, 101);
    let config: serde_json::Value = serde_json::from_str(&daemon.good("show config")).unwrap();
    assert_eq!(config["network"][0]["name"], "blue");
}

#[test]
fn nat_and_connections() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show nat"),
        "\
PROTO ADDRESS   PORTS     CONTAINER IFACE TARGET          STATE  CLIENTS ORIGIN REASON
tcp   *         8080      web       eth0  10.1.0.10:80    up           7 file   -
udp   127.0.0.1 9000-9010 web       eth0  10.1.0.10:53-63 failed       0 api    Address already in use
"
    );
    assert_eq!(daemon.good("show nat --port 9005 --protocol udp").lines().count(), 2);
    assert_eq!(daemon.good("show nat --container db").lines().count(), 1);
    assert_eq!(
        daemon.good("show connections --protocol tcp"),
        "\
PROTO DIR CONTAINER SOURCE           DESTINATION  LOCAL            PEER             STATE       IDLE BYTES-OUT BYTES-IN
tcp   in  web       198.18.0.1:40000 10.1.0.10:80 198.18.0.10:8080 198.18.0.1:40000 established    2     1.50k      300
"
    );
}

#[test]
fn groups() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show groups"),
        "\
VLAN GROUP     PORT AGE NETWORK CONTAINER IFACE TYPE
   0 224.0.0.1    -  17 blue    -         -     querier
   0 239.1.1.1    3  17 blue    web       eth0  member
  10 ff02::2      4  17 red     db        eth0  router
"
    );
    assert_eq!(
        daemon.good("show groups --container x --network red"),
        "VLAN GROUP PORT AGE NETWORK CONTAINER IFACE TYPE\n"
    );
    let rows: Vec<GroupRow> = serde_json::from_str(&daemon.good("show groups --json")).unwrap();
    assert_eq!(rows, fake::groups());
}

#[test]
fn vxlan() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show vxlan"),
        "\
NETWORK VNI VTEP       PORT TOLD   FLOOD MACS  MTU AGE RX_FRAMES TX_FRAMES DROPS
blue    100 198.18.1.2 4095 peer   yes      2 1450  60        10        20     1
red     200 198.18.1.2 4095 static no       2 1450  60        10        20     1
"
    );
    let rows: Vec<VtepRow> = serde_json::from_str(&daemon.good("show vxlan --json --network red")).unwrap();
    assert_eq!(rows, fake::vteps()[1..]);
}

#[test]
fn cluster() {
    let daemon = Daemon::start();
    let said = "\
this host  h1
store      connected: http://198.18.1.254:2379
since      61 s
held       -
refused    1

HOST VTEP       MEMBERS AGE STATE
h1   198.18.1.1       1  60 this
h2   198.18.1.2       1  60 there

NETWORK VNI SUBNET      SUBNET6 HOSTS MEMBERS
blue    100 10.1.0.0/24 -           2       2

REFUSED   WHY
/hosts/h3 its VTEP is ours
";
    assert_eq!(daemon.good("show cluster"), said);
    let members = "\
VNI MAC               ADDRESSES            NAMES   HOST VTEP       AGE
100 02:42:0a:01:00:0c 10.1.0.12,fd00:1::12 web,www h2   198.18.1.2  59

REFUSED";
    assert_eq!(daemon.good("show cluster --members"), said.replace("REFUSED", members));
    let said: ClusterDetail = serde_json::from_str(&daemon.good("show cluster --json")).unwrap();
    assert_eq!(said, fake::cluster());
}

#[test]
fn filters_are_the_same_words_everywhere() {
    let daemon = Daemon::start();
    let rows = |line: &str| daemon.good(line).lines().count() - 1;
    for (table, all) in [
        ("fdb", 3),
        ("routes", 3),
        ("neighbors", 2),
        ("groups", 3),
        ("ports", 2),
        ("networks", 2),
        ("containers", 3),
    ] {
        assert_eq!(rows(&format!("show {table}")), all, "{table}");
        // The one is there and the other, and not the one on the other.
        let none = "--network red --container web";
        assert_eq!(rows(&format!("show {table} {none}")), 0, "{table} {none}");
        assert_eq!(daemon.good(&format!("--json show {table} {none}")), "[]\n");
        for line in [format!("show {table} --network none"), format!("--json show {table} --container none")]
        {
            assert_eq!(daemon.run(&line).status.code(), Some(1), "{line}");
        }
    }
    for (line, count) in [
        ("fdb --network blue", 2),
        ("fdb --container x", 1),
        ("routes --network red", 1),
        // Those of the networks that it is on.
        ("routes --container web", 2),
        ("neighbors --network blue --container web", 1),
        ("ports --container db", 1),
        ("networks --container db", 1),
        ("containers --network blue", 2),
        ("drops --network blue", 1),
        ("drops --container db", 0),
    ] {
        assert_eq!(rows(&format!("show {line}")), count, "{line}");
    }
    assert_eq!(
        daemon.good("show routes --network blue"),
        "\
NETWORK DESTINATION VIA       TO   TYPE
blue    10.1.0.0/24 -         blue connected
blue    10.8.0.0/16 10.1.0.10 blue static
"
    );
    let workers = daemon.good("show stats --network red --container web");
    assert!(!workers.contains("web") && workers.contains("WORKER"), "{workers}");
}

#[test]
fn stats() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.good("show stats"),
        "\
PORT NETWORK CONTAINER IFACE RX-FRAMES/s RX-BITS/s TX-FRAMES/s TX-BITS/s RX-FRAMES TX-FRAMES DROPS
   3 blue    web       eth0           77     88.0k           0         0      1000         5     0

WORKER   RX GENERATED RELEASED FORWARDED FLOODED COPIES LOCAL HELD DROPS BATCHES WAKEUPS SPINS
     0 1005         0        0      1000       0      0     0    0     5      40       0     0
"
    );
}

#[test]
fn names_from_the_daemon_cannot_steer_the_terminal() {
    fn hostile(_: &Request) -> Reply {
        let mut row = fake::fdb().remove(0);
        row.container = "\u{1b}[2Jx\n\u{9b}y\u{202e}".into();
        Ok(Answer::Fdb(vec![row]))
    }
    let daemon = Daemon::start_with(hostile);
    let table = daemon.good("show fdb");
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("\\u{1b}[2Jx\\n\\u{9b}y\\u{202e}"), "{table}");
    let json = daemon.good("show fdb --json");
    assert!(json.contains("\\u001b[2Jx\\n\\u009by\\u202e"), "{json}");
    let (out, err) = texts(&daemon.run("show ports"));
    assert_eq!(out, "");
    assert!(err.starts_with("vswitchctl: what listens at ") && err.lines().count() == 1, "{err}");
}
