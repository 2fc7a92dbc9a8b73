//! The loads that play containers: each is a process of its own inside a namespace.
//!
//! A server prints `ready PORT` and serves until its stdin closes; a client prints one line of JSON.

pub mod connect;
pub mod dial;
pub mod fan;
pub mod hold;
pub mod raw;
pub mod rr;
pub mod stream;
pub mod udp;
pub mod vteps;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde::Serialize;

use crate::error::{Error, Result};

/// A paced sender wakes up this often; what is due goes out as a burst.
const PERIOD: Duration = Duration::from_micros(100);
/// A sender that was held up catches up with at most this many at once and lets the rest go by: a TAP's queue holds 1000.
const MAX_BURST: u32 = 256;
/// Frames between two looks at the clock at full blast.
const UNTIMED: u32 = 32;

/// What a container does.
#[derive(Debug, Clone, Subcommand)]
pub enum Load {
    /// Counts UDP frames that carry the tag.
    UdpRecv {
        /// Marks the frames of one step.
        #[arg(long)]
        tag: u32,
        /// Own l4 port; 0: any.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Sends UDP frames at a rate, or as fast as it can.
    UdpSend {
        /// Receiver.
        #[arg(long)]
        to: SocketAddrV4,
        /// Marks the frames of one step.
        #[arg(long)]
        tag: u32,
        /// Packets per second; 0 is full blast.
        #[arg(long)]
        rate: u64,
        /// How long.
        #[arg(long)]
        seconds: f64,
    },
    /// Sends a UDP frame for each of many flows.
    Fan(fan::Fan),
    /// Sends raw first packets from many l4 ports, and counts the answers.
    Dial(dial::Dial),
    /// Answers these, and counts who sent them.
    AnswerRaw {
        /// Whom they ask.
        #[arg(long)]
        at: Ipv4Addr,
    },
    /// Sends UDP frames back.
    Echo {
        /// Own l4 port; 0: any.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Measures UDP round trips.
    RoundTrip {
        /// The echo.
        #[arg(long)]
        to: SocketAddrV4,
        /// At most this long.
        #[arg(long)]
        seconds: f64,
        /// At most this many.
        #[arg(long)]
        samples: usize,
        /// Pause after each round trip, in microseconds; 0 is none.
        #[arg(long, default_value_t = 0)]
        pause_us: u64,
    },
    /// Accepts TCP connections and closes them.
    Accept {
        /// Own l4 port; 0: any.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Close a connection when its first byte has come.
        #[arg(long)]
        greeted: bool,
    },
    /// Opens TCP connections one after the other.
    Connect {
        /// The server.
        #[arg(long)]
        to: SocketAddrV4,
        /// How long.
        #[arg(long)]
        seconds: f64,
        /// Send a byte on each.
        #[arg(long)]
        greet: bool,
    },
    /// Accepts TCP connections, keeps them, and answers each byte with the same byte.
    HoldServe,
    /// Opens TCP connections and keeps them until stdin closes; then asks each whether it lives.
    Hold {
        /// The server.
        #[arg(long)]
        to: SocketAddrV4,
        /// How many.
        #[arg(long)]
        count: u32,
    },
    /// Serves TCP streams as their clients wish.
    StreamServe,
    /// Runs TCP streams one after the other.
    Stream(stream::Client),
    /// Counts frames of the raw load on `eth0`, whomever they are for.
    RawRecv,
    /// Sends frames with made-up MAC addresses on `eth0`.
    RawSend(raw::Send),
    /// Counts frames of the raw load that come to many hosts of an overlay.
    Vteps {
        /// The first host's address; the others follow.
        #[arg(long)]
        first: Ipv4Addr,
        /// How many hosts there are.
        #[arg(long)]
        count: u32,
        /// Of this network.
        #[arg(long)]
        vni: u32,
    },
}

/// Runs one load to its end.
///
/// # Errors
/// When the kernel refuses a socket or a frame for good.
pub fn run(load: &Load) -> Result<()> {
    match *load {
        Load::UdpRecv { tag, port } => udp::receive(tag, port),
        Load::UdpSend { to, tag, rate, seconds } => print(&udp::send(to, tag, rate, seconds)?),
        Load::Fan(ref fan) => print(&fan::send(fan)?),
        Load::Dial(ref dial) => print(&dial::dial(dial)?),
        Load::AnswerRaw { at } => dial::answer(at),
        Load::Echo { port } => rr::echo(port),
        Load::RoundTrip { to, seconds, samples, pause_us } => {
            print(&rr::round_trips(to, seconds, samples, Duration::from_micros(pause_us))?)
        }
        Load::Accept { port, greeted } => connect::accept(port, greeted),
        Load::Connect { to, seconds, greet } => print(&connect::connect(to, seconds, greet)?),
        Load::HoldServe => hold::serve(),
        Load::Hold { to, count } => hold::hold(to, count),
        Load::StreamServe => stream::serve(),
        Load::Stream(ref client) => print(&stream::run(client)?),
        Load::RawRecv => raw::receive(),
        Load::RawSend(ref send) => print(&raw::send(send)?),
        Load::Vteps { first, count, vni } => vteps::receive(first, count, vni),
    }
}

fn print(answer: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(answer)
        .map_err(|error| Error::Answer { who: "a load", detail: error.to_string() })?;
    writeln!(std::io::stdout(), "{line}").map_err(Error::io("print an answer"))
}

fn ready(port: u16) -> Result<()> {
    writeln!(std::io::stdout(), "ready {port}").map_err(Error::io("say ready"))
}

/// A flag that rises when stdin closes, which is how a server is told to finish.
fn finish_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    thread::spawn(move || {
        let mut sink = [0u8; 64];
        while matches!(std::io::stdin().read(&mut sink), Ok(1..)) {}
        raised.store(true, Ordering::Relaxed);
    });
    flag
}

/// Seconds as a duration; nonsense is nothing.
fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Calls `send` at `rate` calls a second (0: as often as it can) for `time`.
fn repeat(rate: u64, time: Duration, mut send: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    if rate == 0 {
        while start.elapsed() < time {
            for _ in 0..UNTIMED {
                send()?;
            }
        }
        return Ok(());
    }
    // The default slack of 50 us would make the period half as long again.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).map_err(Error::io("timer slack"))?;
    let gap = Duration::from_secs_f64(1.0 / rate as f64);
    let max_lag = gap.saturating_mul(MAX_BURST);
    let mut next = start;
    loop {
        let now = Instant::now();
        if now.duration_since(start) >= time {
            return Ok(());
        }
        if now.saturating_duration_since(next) > max_lag {
            next = now;
        }
        while next <= now {
            send()?;
            next += gap;
        }
        thread::sleep(next.saturating_duration_since(now).max(PERIOD));
    }
}
