//! Harm done to a network whose packets are translated: by a container, and by somebody outside. Each row says what is
//! sent, by whom, and what becomes of it by name. After each table a neighbour has lost nothing: neither pings, nor
//! connections that it had, nor those that it opens.

mod attempts;
mod floods;
mod fragments;
mod internet;
mod link;
mod networks;
mod offload;
mod transport;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Host, PYTHON, Train, wait_for};
use crate::wire::{Mac, hex, mac};

const WIRE: &str = include_str!("wire.py");
const FLOWS: &str = include_str!("flows.py");

/// In every payload, with the number of its row behind it.
const MAGIC: &[u8] = b"<vswitch-magic>!";

/// Addresses: the hostile container, its neighbours, the gateway of both, a container elsewhere; who is outside, and us.
const A: &str = "10.1.0.2";
const B: &str = "10.1.0.3";
const GATEWAY: &str = "10.1.0.1";
const C: &str = "10.2.0.2";
const FAR: &str = "198.18.0.1";
const US: &str = "198.18.0.10";
const A6: &str = "fd00:1::2";
const B6: &str = "fd00:1::3";
const GATEWAY6: &str = "fd00:1::1";
const FAR6: &str = "fd00:9::1";
const US6: &str = "fd00:9::10";
/// The MAC of our address outside.
const US_MAC: Mac = [0x02, 0x42, 198, 18, 0, 10];

const PUBLISH: &str = "publish = [\"8080:80\", \"7000-7009:70-79\", \"9053:53/udp\"]";

/// How long something may take that waits for nothing but a fragment's first (two seconds).
const SOON: Duration = Duration::from_secs(8);

/// What no frame of ours may come to, whatever others send.
const NEVER: [&str; 5] = ["oversized_read", "tx_error", "stale_entry", "port_gone", "uplink_error"];

/// Networks `blue` with `a`, who is hostile, and `b`, who is not, and `red` with `c`; the uplink in the namespace of `far`.
fn lab(host: &Host, publish: &str) -> String {
    let container = |name: &str, network: &str, more: &str| {
        let netns = host.name(name);
        format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\n{more}\n"
        )
    };
    let far = host.name("far");
    host.configuration(&format!(
        "[uplink]\nkind = \"tap\"\nnetns = \"{far}\"\naddress = \"198.18.0.10/16\"\n\
         address6 = \"fd00:9::10/64\"\nhost = \"198.18.0.1/16\"\nhost6 = \"fd00:9::1/64\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/16\"\nsubnet6 = \"fd00:1::/64\"\nroutes_to = [\"red\"]\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/16\"\nsubnet6 = \"fd00:2::/64\"\n\
         {}{}{}[[container]]\nname = \"far\"\nnetns = \"{far}\"\ncreate = true\n",
        container("a", "blue", publish),
        container("b", "blue", ""),
        container("c", "red", ""),
    ))
}

/// A process in a container that is told line by line what to do, and answers each line with one.
struct Told {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    who: String,
}

impl Told {
    #[track_caller]
    fn start(daemon: &Daemon, container: &str, program: &str, words: &[&str]) -> Self {
        let command = daemon.exec_command(container, &[&[PYTHON, "-u", "-c", program], words].concat());
        Self::of(command, format!("{container}: {words:?}"))
    }

    #[track_caller]
    fn of(mut command: Command, who: String) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut told = Self { child, to, from, who };
        assert_eq!(told.line(), "ready", "{}", told.who);
        told
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{} ended", self.who);
        line.trim_end().to_owned()
    }

    fn tell(&mut self, what: &str) {
        self.to.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    #[track_caller]
    fn ask(&mut self, what: &str) -> String {
        self.tell(what);
        self.line()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where something is sent, or heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    /// `a`.
    Inside,
    /// `far`.
    Outside,
    /// `b` and `c`.
    Others,
}

/// What becomes of the frames of a row.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Each is dropped, by one of these names, and heard by nobody.
    Dropped(&'static [&'static str]),
    /// Each is heard on the other side: outside as ours, or by `a`.
    Passes,
    /// It concerns us, we may answer it, and nobody else hears of it.
    Ours,
    /// Its neighbours may hear of it, and nobody on the other side.
    Bridged,
}

/// What is sent, and what becomes of it.
struct Row {
    /// Of which hostile input, and what it is.
    what: &'static str,
    by: Place,
    frames: Frames,
    fate: Fate,
}

/// Frames of a row, of its mark and of who is outside.
type Frames = Box<dyn Fn(&[u8]) -> Vec<Vec<u8>>>;

fn row(what: &'static str, by: Place, fate: Fate, frames: impl Fn(&[u8]) -> Vec<Vec<u8>> + 'static) -> Row {
    Row { what, by, frames: Box::new(frames), fate }
}

/// The same of IP packets, each in a frame from its sender to us.
fn packets(what: &'static str, by: Place, fate: Fate, of: impl Fn(&[u8]) -> Vec<Vec<u8>> + 'static) -> Row {
    row(what, by, fate, move |mark| of(mark).iter().map(|packet| framed(by, packet)).collect())
}

/// An IP packet in a frame to us.
fn framed(by: Place, packet: &[u8]) -> Vec<u8> {
    let (to, from) = match by {
        Place::Inside => (mac(1), mac(2)),
        _ => (US_MAC, FAR_MAC),
    };
    let ethertype = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    crate::wire::ethernet(to, from, ethertype, packet)
}

/// Of the TAP's other end, which has the first address of the subnet.
const FAR_MAC: Mac = [0x02, 0x42, 198, 18, 0, 1];

/// A lab under attack.
struct Stage {
    daemon: Daemon,
    engine: u32,
    train: Train,
    neighbor: Told,
    inside: Told,
    outside: Told,
    /// Who must hear nothing of it.
    others: [Told; 2],
    _server: Told,
    rows: u16,
}

impl Stage {
    #[track_caller]
    fn new(host: Host) -> Self {
        Self::with(host, PUBLISH)
    }

    #[track_caller]
    fn with(host: Host, publish: &str) -> Self {
        let configuration = lab(&host, publish);
        Self::of(host, &configuration)
    }

    #[track_caller]
    fn of(host: Host, configuration: &str) -> Self {
        let daemon = host.start(configuration);
        daemon.wait_state("-outside", "up");
        for (from, address) in [("far", FAR6), ("a", A6), ("b", B6)] {
            wait_for("an address that nobody else has", || {
                let shown = daemon.exec(from, &["ip", "-6", "address"]);
                (shown.contains(address) && !shown.contains("tentative")).then_some(())
            });
        }
        let server = Told::start(&daemon, "far", FLOWS, &["serve", FAR, FAR6]);
        let neighbor = Told::start(&daemon, "b", FLOWS, &["use", FAR, FAR6]);
        for to in [FAR, FAR6] {
            daemon.ping("a", to);
        }
        let needle = hex(MAGIC);
        let wire = |container, interface| Told::start(&daemon, container, WIRE, &[interface, &needle]);
        let (inside, outside) = (wire("a", "eth0"), wire("far", "vsw0"));
        let others = [wire("b", "eth0"), wire("c", "eth0")];
        let train = Train::start(&daemon, "b", FAR);
        let engine = daemon.engine();
        Self { daemon, engine, train, neighbor, inside, outside, others, _server: server, rows: 0 }
    }

    fn drops(&self) -> HashMap<String, u64> {
        let rows = self.daemon.rows("drops");
        let pair =
            |row: &serde_json::Value| Some((row["reason"].as_str()?.to_owned(), row["frames"].as_u64()?));
        rows.iter().filter_map(pair).collect()
    }

    fn port(by: Place) -> &'static str {
        match by {
            Place::Inside => "a",
            _ => "-outside",
        }
    }

    fn received(&self, by: Place) -> u64 {
        self.daemon.port(Self::port(by))["rx_frames"].as_u64().unwrap()
    }

    fn wire(&mut self, by: Place) -> &mut Told {
        match by {
            Place::Inside => &mut self.inside,
            _ => &mut self.outside,
        }
    }

    /// Puts frames on a wire; waits until they came in.
    #[track_caller]
    fn send(&mut self, by: Place, how: &str, frames: &[Vec<u8>]) {
        let before = self.received(by);
        let lines: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
        let taken: u64 =
            self.wire(by).ask(&format!("{how} {}\n{}", lines.len(), lines.join("\n"))).parse().unwrap();
        assert_eq!(taken, frames.len() as u64, "the kernel takes them all");
        wait_for("them to come in", || (self.received(by) - before >= taken).then_some(()));
    }

    /// Many frames, made by one of the functions of `wire.py`; waits until most of them came in.
    #[track_caller]
    fn flood(&mut self, by: Place, words: &str) -> u64 {
        let before = self.received(by);
        let taken: u64 = self.wire(by).ask(&format!("flood {words}")).parse().unwrap();
        // What the interface's own queue could not hold never came to us.
        wait_for("the flood to come in", || (self.received(by) - before >= taken / 2).then_some(()));
        taken
    }

    /// What a wire heard since it was asked last: the rows that the frames are of.
    fn heard(told: &mut Told) -> Vec<(u16, String)> {
        let frames: Vec<String> = serde_json::from_str(&told.ask("heard")).unwrap();
        let needle = hex(MAGIC);
        let of = |frame: String| {
            let at = frame.find(&needle)? + needle.len();
            Some((u16::from_str_radix(frame.get(at..at + 4)?, 16).ok()?, frame))
        };
        frames.into_iter().filter_map(of).collect()
    }

    /// Plays a table.
    #[track_caller]
    fn play(&mut self, rows: &[Row]) {
        let mut names = HashMap::new();
        let mut wrong = Vec::new();
        for row in rows {
            self.rows += 1;
            let number = self.rows;
            let mark = [MAGIC, &number.to_be_bytes()].concat();
            let frames = (row.frames)(&mark);
            assert!(!frames.is_empty(), "{}", row.what);
            let before = self.drops();
            self.send(row.by, "send", &frames);
            if let Fate::Dropped(reasons) = row.fate {
                wrong.extend(self.not_dropped(row, &frames, reasons, &before));
            }
            names.insert(number, (row, frames.len()));
        }
        wrong.extend(self.wrongly_heard(&names));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What is wrong about a row of which each frame must be dropped.
    fn not_dropped(
        &self,
        row: &Row,
        frames: &[Vec<u8>],
        reasons: &[&str],
        before: &HashMap<String, u64>,
    ) -> Option<String> {
        let mut risen = Vec::new();
        let deadline = Instant::now() + SOON;
        let mut fallen = false;
        while !fallen && Instant::now() < deadline {
            let now = self.drops();
            let since = |name: &str| now.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
            risen =
                now.keys().map(|name| (name.clone(), since(name))).filter(|(_, count)| *count > 0).collect();
            fallen = reasons.iter().map(|name| since(name)).sum::<u64>() >= frames.len() as u64;
        }
        (!fallen).then(|| {
            format!("{} ({:?}): {} frames, not {reasons:?} but {risen:?}", row.what, row.by, frames.len())
        })
    }

    /// What is wrong about who heard what of the rows of this table.
    fn wrongly_heard(&mut self, rows: &HashMap<u16, (&Row, usize)>) -> Vec<String> {
        let mut heard: HashMap<(Place, u16), Vec<String>> = HashMap::new();
        let other = |place| if place == Place::Inside { Place::Outside } else { Place::Inside };
        let mut wrong = Vec::new();
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            self.listen(&mut heard);
            wrong = rows
                .iter()
                .filter(|(_, (row, _))| matches!(row.fate, Fate::Passes))
                .map(|(number, (row, count))| {
                    (row, *count, heard.get(&(other(row.by), *number)).map_or(0, Vec::len))
                })
                .filter(|(_, count, heard)| heard < count)
                .map(|(row, count, heard)| format!("{} ({:?}): {heard} of {count} heard", row.what, row.by))
                .collect();
            if wrong.is_empty() {
                break;
            }
        }
        for ((place, number), frames) in &heard {
            let Some((row, _)) = rows.get(number) else { continue };
            // What we, or who got it, say about it comes back to who sent it.
            let may = match row.fate {
                _ if *place == row.by => true,
                Fate::Passes => *place == other(row.by),
                Fate::Bridged => *place == Place::Others,
                Fate::Dropped(_) | Fate::Ours => false,
            };
            if !may {
                wrong.push(format!("{} ({:?}): heard {place:?}: {:?}", row.what, row.by, frames.first()));
            }
        }
        wrong
    }

    fn listen(&mut self, heard: &mut HashMap<(Place, u16), Vec<String>>) {
        let [b, c] = &mut self.others;
        let all = [
            (Place::Inside, &mut self.inside),
            (Place::Outside, &mut self.outside),
            (Place::Others, b),
            (Place::Others, c),
        ];
        for (place, told) in all {
            for (number, frame) in Self::heard(told) {
                heard.entry((place, number)).or_default().push(frame);
            }
        }
    }

    /// The neighbour has what it had, and gets what it asks for.
    #[track_caller]
    fn check(&mut self) {
        let said = self.neighbor.ask("check");
        assert_eq!(said, "0", "of the neighbour's flows failed");
        assert_eq!(self.daemon.engine(), self.engine, "the engine died");
    }

    /// What every attack must leave.
    #[track_caller]
    fn unharmed(mut self) {
        self.check();
        let drops = self.drops();
        for name in NEVER {
            assert_eq!(drops.get(name), None, "{drops:?}");
        }
        let Self { daemon, train, .. } = self;
        train.assert_lost_nothing();
        daemon.assert_conserved();
        daemon.stop();
    }
}
