//! An etcd on the cable, and hosts that have nothing of each other but by it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::hosts::{Place, Underlay, configuration};
use super::{Wanted, hosts_like};
use crate::harness::{As, Daemon, Host, PYTHON, run, skipped, text, wait_for};
use crate::traffic::Stream;

/// A client of etcd's JSON gateway: `URL compact`, `URL put` with lines of key, tab, value, and `count`, `get`, `delete`.
const CLIENT: &str = "\
import base64, json, sys, time, urllib.error, urllib.request
url, what = sys.argv[1], sys.argv[2]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(path, body, deadline=time.monotonic() + 20):
    while True:
        try:
            return json.load(opener.open(url + '/v3/kv/' + path, json.dumps(body).encode(), timeout=30))
        except urllib.error.HTTPError as error:
            if path == 'compaction' and error.code == 400: # nothing was written since the last time
                return None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except OSError: # it listens before it answers
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
def text(it):
    return base64.b64encode(it.encode()).decode()
if what == 'compact':
    revision = ask('range', {'key': text('x')})['header']['revision']
    ask('compaction', {'revision': revision, 'physical': True})
elif what == 'put':
    puts = [line.rstrip('\\n').split('\\t') for line in sys.stdin]
    puts = [{'requestPut': {'key': text(key), 'value': text(value)}} for key, value in puts]
    for at in range(0, len(puts), 100):
        assert ask('txn', {'success': puts[at:at + 100]})['succeeded']
elif what == 'count':
    found = ask('range', {'key': text(sys.argv[3]), 'range_end': text(sys.argv[4]), 'count_only': True})
    print(found.get('count', 0))
elif what == 'get':
    for found in ask('range', {'key': text(sys.argv[3])}).get('kvs', []):
        print(base64.b64decode(found['value']).decode())
elif what == 'delete':
    ask('deleterange', {'key': text(sys.argv[3])})
";

/// Where etcd is on the cable.
pub const ETCD: &str = "198.18.1.254";

/// An etcd in the namespace of the cable.
pub struct Etcd {
    child: Option<Child>,
    pub netns: String,
    data: PathBuf,
}

impl Etcd {
    pub fn start(underlay: &Underlay, host: &Host) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            skipped("there is no etcd");
            return None;
        }
        let netns = &underlay.netns;
        run("ip", &["-n", netns, "address", "add", &format!("{ETCD}/24"), "dev", "br0"]);
        run("ip", &["-n", netns, "link", "set", "lo", "up"]);
        let mut etcd = Self { child: None, netns: netns.clone(), data: host.dir.join("etcd") };
        etcd.begin();
        Some(etcd)
    }

    /// None, in the place of one that a test holds itself.
    pub fn none() -> Self {
        Self { child: None, netns: String::new(), data: PathBuf::new() }
    }

    pub fn begin(&mut self) {
        let (url, peer) = (format!("http://{ETCD}:2379"), "http://127.0.0.1:2380");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "etcd", "--data-dir"]).arg(&self.data);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--log-level", "error"]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        self.child =
            Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("etcd to listen", || {
            // Its l4 port in the kernel's table.
            run("ip", &["netns", "exec", &self.netns, "cat", "/proc/net/tcp"])
                .contains(":094B ")
                .then_some(())
        });
    }

    /// What [`CLIENT`] is told to do with these words and this input.
    #[track_caller]
    pub fn ask(&self, words: &[&str], input: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, PYTHON, "-c", CLIENT, &format!("http://{ETCD}:2379")]);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// All that was before now is compacted away.
    #[track_caller]
    pub fn compact(&self) {
        self.ask(&["compact"], "");
    }

    /// Puts records: key (below the prefix and the version) and value.
    #[track_caller]
    pub fn put<'a>(&self, records: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let lines: Vec<_> =
            records.into_iter().map(|(key, value)| format!("/vswitch/v1/{key}\t{value}\n")).collect();
        self.ask(&["put"], &lines.concat());
    }

    /// Puts one record at any key.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        self.ask(&["put"], &format!("{key}\t{value}\n"));
    }

    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        Some(self.ask(&["get", key], "").trim().to_owned()).filter(|value| !value.is_empty())
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.ask(&["delete", key], "");
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Everything it knew is gone.
    pub fn empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
        self.begin();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// So many hosts of a cluster, of which the first has network `blue` and a container `c` on it.
pub struct Lab {
    pub etcd: Etcd,
    pub daemons: Vec<Daemon>,
    pub places: Vec<Place>,
    _cable: Host,
}

pub fn cluster(number: usize) -> String {
    format!("[cluster]\netcd = [\"http://{ETCD}:2379\"]\nttl = 2\nname = \"h{number}\"\n")
}

pub fn begin(mut host: Host, place: &Place, text: &str) -> Daemon {
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{}", place.netns)];
    host.start(text)
}

impl Lab {
    pub fn new(first: Host, count: usize) -> Option<Self> {
        let mut cable = Host::new(As::Root).unwrap();
        let mut underlay = Underlay::new(&mut cable, false);
        let etcd = Etcd::start(&underlay, &cable)?;
        let mut hosts = hosts_like(first, count);
        let places: Vec<_> = hosts.iter_mut().map(|host| underlay.place(host)).collect();
        let mut daemons = Vec::new();
        for ((host, place), number) in hosts.into_iter().zip(&places).zip(1..) {
            let cluster = cluster(number);
            let text = if number == 1 {
                configuration(&host, place, 1, &Wanted { rest: &cluster, ..Wanted::default() })
            } else {
                host.configuration(&format!("[vxlan]\nlocal = \"{}\"\n{cluster}", place.address))
            };
            daemons.push(begin(host, place, &text));
        }
        Some(Self { etcd, daemons, places, _cable: cable })
    }

    /// A container `c` on a host that has the network from the cluster. Its address.
    pub fn connect(&self, at: usize) -> String {
        let daemon = &self.daemons[at];
        wait_for("the network of the cluster", || {
            daemon.rows("networks").iter().any(|row| row["name"] == "blue").then_some(())
        });
        let netns = daemon.host.name("c");
        let alias = format!("on{}", at + 1);
        daemon.ctl(&["network", "connect", "blue", "c", "--netns", &netns, "--create", "--alias", &alias]);
        let address = daemon.port("c")["addresses"][0].as_str().unwrap().to_owned();
        address.split('/').next().unwrap().to_owned()
    }

    /// Hosts with a container each, which all know each other. The addresses of those that are not the first one's.
    pub fn whole(first: Host, count: usize) -> Option<(Self, Vec<String>)> {
        let lab = Self::new(first, count)?;
        let addresses = (1..count).map(|at| lab.connect(at)).collect();
        for at in 0..count {
            lab.knows(at, count - 1);
        }
        Some((lab, addresses))
    }

    /// Waits until a host knows of so many others on the network.
    #[track_caller]
    pub fn knows(&self, at: usize, count: usize) {
        wait_for("the other hosts", || (self.daemons[at].rows("vxlan").len() == count).then_some(()));
    }

    /// Whether a host knows of another one.
    pub fn knows_of(&self, at: usize, other: usize) -> bool {
        let there = &self.places[other].address;
        self.daemons[at].rows("vxlan").iter().any(|row| row["vtep"] == there.as_str())
    }

    /// What a host says of the store: `connected`, `lost`, ...
    pub fn state(&self, at: usize) -> String {
        self.daemons[at].rows("cluster")[0]["state"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn wait_connected(&self, at: usize) {
        wait_for("the store", || {
            let row = self.daemons[at].rows("cluster").remove(0);
            (row["state"] == "connected" && row["held"].is_null()).then_some(())
        });
    }

    /// What a name is on a host, as its container is told.
    pub fn look_up(&self, at: usize, name: &str) -> String {
        let words = ["dig", "+short", "+time=2", "+tries=2", "@10.1.0.1", name, "A"];
        self.daemons[at].exec("c", &words).trim().to_owned()
    }

    /// A checked stream between two hosts' containers.
    pub fn stream(&self, from: usize, to: usize, address: &str, mib: u32) -> Stream {
        super::stream(&self.daemons, from, to, address, mib)
    }

    /// Waits until a stream between two hosts has gone on by so many bytes.
    #[track_caller]
    pub fn goes_on(&self, at: usize, bytes: u64) {
        let so_far = || {
            let row = self.daemons[at].port("c");
            row["rx_bytes"].as_u64().unwrap() + row["tx_bytes"].as_u64().unwrap()
        };
        let mut last = so_far();
        let mut total = 0;
        wait_for("the stream to go on", || {
            let now = so_far();
            // Counters of another engine begin anew.
            total += now.saturating_sub(last);
            last = now;
            (total >= bytes).then_some(())
        });
    }

    pub fn stop(self) {
        super::stop(self.daemons);
    }
}
