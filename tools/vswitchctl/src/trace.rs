//! `trace`: what would become of a packet.

use std::io::{self, Read};
use std::net::IpAddr;

use clap::{ArgAction, ArgGroup, Args};
use switch::mac::MacAddr;
use vswitchd::api::rows::{TcpFlag, TraceAsk, TraceDescribed, TracePort, TraceRow};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::escape;
use crate::show::either;

/// Longest text of a frame, bytes: what `tcpdump -XX` makes of 64 KiB, and room to spare.
const LONGEST: u64 = 1 << 20;

/// A packet, described or whole.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["to", "hex"]))]
#[command(group = ArgGroup::new("sender").required(true).args(["from", "vtep"]))]
#[command(group = ArgGroup::new("protocol").args(["tcp", "udp", "icmp", "arp"]))]
pub struct Trace {
    /// The container that sends it
    #[arg(long, value_name = "CONTAINER")]
    pub from: Option<String>,
    /// Its interface [default: its only one]
    #[arg(long, requires = "from")]
    pub interface: Option<String>,
    /// Another host that sends it in VXLAN instead, by its address on the underlay
    #[arg(long, value_name = "ADDRESS")]
    pub vtep: Option<IpAddr>,
    /// The network that it names [default: the only one with a vni]
    #[arg(long, requires = "vtep")]
    pub vni: Option<u32>,
    /// Its destination
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<IpAddr>,
    /// TCP to this l4 port
    #[arg(long, value_name = "PORT")]
    pub tcp: Option<u16>,
    /// UDP to this l4 port
    #[arg(long, value_name = "PORT")]
    pub udp: Option<u16>,
    /// An echo request (the default)
    #[arg(long)]
    pub icmp: bool,
    /// An ARP request for the destination
    #[arg(long)]
    pub arp: bool,
    /// Source address [default: the container's, or one that is known behind the host]
    #[arg(long, value_name = "ADDRESS")]
    pub src_ip: Option<IpAddr>,
    /// Source MAC [default: the container's, or that of the address behind the host]
    #[arg(long, value_name = "MAC")]
    pub src_mac: Option<MacAddr>,
    /// Destination MAC [default: the gateway's, or that of the destination]
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<MacAddr>,
    /// Source l4 port, or the identifier of an echo request
    #[arg(long, value_name = "PORT")]
    pub sport: Option<u16>,
    /// TTL or hop limit [default: 64]
    #[arg(long)]
    pub ttl: Option<u8>,
    /// Don't Fragment [default: true for TCP]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub df: Option<bool>,
    /// Bytes of the IP packet
    #[arg(long, value_name = "BYTES")]
    pub length: Option<u16>,
    /// VLAN
    #[arg(long, value_name = "VID")]
    pub vlan: Option<u16>,
    /// TCP flags [default: syn]
    #[arg(long, value_delimiter = ',', value_name = "syn,ack,...")]
    pub flags: Vec<TcpFlag>,
    /// A whole frame instead: hexadecimal digits, or what tcpdump -xx prints; - is standard input
    #[arg(
        long,
        value_name = "BYTES",
        conflicts_with_all = ["protocol", "src_ip", "src_mac", "dst_mac", "sport", "ttl", "df", "length", "vlan", "flags"]
    )]
    pub hex: Option<String>,
}

/// `trace`.
///
/// # Errors
/// The frame cannot be read; not reachable; the daemon said no.
pub fn trace(client: &Client, as_json: bool, what: Trace) -> Result<String, Failure> {
    let row: TraceRow = client.post("/v1/trace", &ask(what)?)?;
    either(as_json, &row, text)
}

fn ask(what: Trace) -> Result<TraceAsk, Failure> {
    let Trace { from, interface, vtep, vni, to, tcp, udp, icmp, arp, hex, .. } = what;
    let hex = match hex.as_deref() {
        Some("-") => Some(stdin()?),
        _ => hex,
    };
    let hex = hex.map(|text| digits(&text)).transpose().map_err(|error| Failure::Usage(error.to_string()))?;
    let packet = to.map(|to| TraceDescribed {
        to,
        tcp,
        udp,
        icmp,
        arp,
        src_ip: what.src_ip,
        src_mac: what.src_mac,
        dst_mac: what.dst_mac,
        sport: what.sport,
        ttl: what.ttl,
        df: what.df,
        length: what.length,
        vlan: what.vlan,
        flags: what.flags,
    });
    Ok(TraceAsk { from, interface, vtep, vni, hex, packet })
}

fn stdin() -> Result<String, Failure> {
    let path = || std::path::PathBuf::from("-");
    let mut text = String::new();
    match io::stdin().take(LONGEST.saturating_add(1)).read_to_string(&mut text) {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST) => Ok(text),
        Ok(_) => Err(Failure::FileTooLong { path: path(), most: LONGEST }),
        Err(source) => Err(Failure::File { path: path(), source }),
    }
}

/// A text that is no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum HexError {
    #[error("hex: {0:?} is not a hexadecimal digit")]
    Digit(char),
    #[error("hex: an odd number of digits")]
    Odd,
    #[error("hex: more than one packet")]
    Several,
}

/// The digits of a frame: as they are, in pairs with colons or spaces between, or as tcpdump prints them with `-xx` or
/// `-XX` (an offset before each line, text after it; lines without an offset are about the packet, not of it).
fn digits(text: &str) -> Result<String, HexError> {
    let dump: Vec<(&str, &str)> = text.lines().filter_map(offset).collect();
    let mut digits = String::with_capacity(text.len());
    if dump.is_empty() {
        push(&mut digits, text)?;
    }
    for (index, (offset, line)) in dump.into_iter().enumerate() {
        if index > 0 && offset.bytes().all(|byte| byte == b'0') {
            return Err(HexError::Several);
        }
        // Behind two spaces stands the text.
        let line = line.trim_start();
        push(&mut digits, line.split_once("  ").map_or(line, |(bytes, _)| bytes))?;
    }
    if digits.len().is_multiple_of(2) { Ok(digits) } else { Err(HexError::Odd) }
}

/// `0x0010:  4500 ...` as its offset and the rest.
fn offset(line: &str) -> Option<(&str, &str)> {
    let (offset, rest) = line.trim_start().strip_prefix("0x")?.split_once(':')?;
    offset.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some((offset, rest))
}

fn push(digits: &mut String, text: &str) -> Result<(), HexError> {
    let text = text.trim_start();
    for character in text.strip_prefix("0x").unwrap_or(text).chars() {
        match character {
            digit if digit.is_ascii_hexdigit() => digits.push(digit),
            ':' | '-' | ',' => {}
            space if space.is_whitespace() => {}
            other => return Err(HexError::Digit(other)),
        }
    }
    Ok(())
}

/// The trace as people read it: the packet, what each hop did, what became of it, and what came out.
fn text(row: &TraceRow) -> String {
    let mut lines = vec![format!("Packet: {}", row.packet.text), format!("  from {}", place(&row.from))];
    lines.push(String::new());
    for step in &row.steps {
        let mut name = step.hop.to_string();
        for line in &step.lines {
            lines.push(format!("{name:<7} {line}"));
            name.clear();
        }
    }
    lines.push(String::new());
    lines.push(match (&row.reason, &row.explanation) {
        (Some(reason), Some(explanation)) => format!("Verdict: {}, {reason}: {explanation}", row.verdict),
        _ => format!("Verdict: {}", row.verdict),
    });
    for out in &row.out {
        let ports: Vec<String> = out.ports.iter().map(place).collect();
        lines.push(String::new());
        lines.push(format!("{}: {}", if out.made { "Answer" } else { "Packet" }, out.packet.text));
        lines.push(format!("  to {}", ports.join("; ")));
        lines.extend(dump(&out.packet.hex));
    }
    lines.iter().map(|line| format!("{}\n", escape(line))).collect()
}

fn place(port: &TracePort) -> String {
    let TracePort { port, network, container, iface, .. } = port;
    match port {
        Some(port) => format!("{container} {iface} (port {port}, network {network})"),
        // A host that is not known.
        None => format!("{container} {iface}"),
    }
}

/// As tcpdump has it.
fn dump(hex: &str) -> impl Iterator<Item = String> {
    let digits: Vec<char> = hex.chars().collect();
    let line = |(index, line): (usize, &[char])| {
        let words: Vec<String> = line.chunks(4).map(|word| word.iter().collect()).collect();
        format!("  0x{:04x}:  {}", index.saturating_mul(16), words.join(" "))
    };
    digits.chunks(32).enumerate().map(line).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_all_their_forms() {
        for text in [
            "0242ac110002",
            "02:42:ac:11:00:02",
            "0x0242ac110002\n",
            "02 42\nac 11\t00 02",
            "\t0x0000:  0242 ac11\n\t0x0004:  0002\n",
            "12:00:01.1 IP a > b: UDP\n\t0x0000:  0242 ac11 0002             .B....\n",
        ] {
            assert_eq!(digits(text), Ok("0242ac110002".into()), "{text}");
        }
        assert_eq!(digits("024"), Err(HexError::Odd));
        assert_eq!(digits("02xy"), Err(HexError::Digit('x')));
        assert_eq!(digits("0x0000:  02\n0x0000:  02\n"), Err(HexError::Several));
        assert_eq!(digits(""), Ok(String::new()));
    }

    #[test]
    fn what_is_printed_can_be_traced_again() {
        let hex = "0123456789abcdef".repeat(5);
        let text: Vec<String> = dump(&hex).collect();
        assert_eq!(text[2], "  0x0020:  0123 4567 89ab cdef");
        assert_eq!(digits(&text.join("\n")), Ok(hex));
    }
}
