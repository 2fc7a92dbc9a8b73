//! What is there against what was expected, and words for the difference.

use std::fmt::Write;
use std::path::Path;

use super::pcapng::{Capture, Packet};

/// Bytes of a line of hexadecimal.
const LINE: usize = 16;

/// Whether what comes out is right by definition.
pub fn blessing() -> bool {
    std::env::var_os("BLESS").is_some_and(|value| value != "0")
}

/// Panics unless the file holds `made`; with `BLESS=1` it does from now on.
pub fn same(path: &Path, made: &[u8]) {
    compare(path, made, |golden| match (std::str::from_utf8(golden), std::str::from_utf8(made)) {
        (Ok(golden), Ok(made)) => lines(golden, made),
        _ => packets(golden, made, None),
    });
}

/// The same for what came out of `input`.
pub fn same_capture(path: &Path, made: &Capture, input: &Capture) {
    let made = made.write();
    compare(path, &made, |golden| packets(golden, &made, Some(input)));
}

fn compare(path: &Path, made: &[u8], difference: impl Fn(&[u8]) -> String) {
    if blessing() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let name = path.display();
    let golden = std::fs::read(path).unwrap_or_else(|error| panic!("{name}: {error} (BLESS=1 makes it)"));
    assert!(golden == made, "{name} is not what comes out\n{}", difference(&golden));
}

/// Lines that are in one but not the other, by place.
fn lines(golden: &str, made: &str) -> String {
    let (mut old, mut new) = (golden.lines(), made.lines());
    let mut text = String::new();
    loop {
        match (old.next(), new.next()) {
            (None, None) => return text,
            (old, new) if old == new => {}
            (old, new) => {
                for (mark, line) in [('-', old), ('+', new)] {
                    line.iter().for_each(|line| writeln!(text, "{mark} {line}").unwrap());
                }
            }
        }
    }
}

/// The first packet that differs.
fn packets(golden: &[u8], made: &[u8], input: Option<&Capture>) -> String {
    let (golden, made) = match (Capture::read(golden), Capture::read(made)) {
        (Ok(golden), Ok(made)) => (golden, made),
        (Err(error), _) | (_, Err(error)) => return format!("not a capture of ours: {error}"),
    };
    if golden.interfaces != made.interfaces {
        return format!("ports\n- {:?}\n+ {:?}", golden.interfaces, made.interfaces);
    }
    let (old, new) = (&golden.packets, &made.packets);
    let mut text = format!("{} packets where there were {}\n", new.len(), old.len());
    let Some(first) = (0..old.len().max(new.len())).find(|index| old.get(*index) != new.get(*index)) else {
        return format!("{text}all packets are the same, the blocks around them are not");
    };
    writeln!(text, "the first that differs is packet {}", first + 1).unwrap();
    for (mark, packet, other) in
        [('-', old.get(first), new.get(first)), ('+', new.get(first), old.get(first))]
    {
        match packet {
            None => writeln!(text, "{mark} none").unwrap(),
            Some(packet) => {
                let port = &made.interfaces[packet.interface];
                let (seconds, millis) = (packet.at / 1000, packet.at % 1000);
                let about = about(packet, input);
                writeln!(text, "{mark} at {seconds}.{millis:03} on {port}: {about}").unwrap();
                hex(&mut text, mark, &packet.bytes, other.map_or(&[], |other| &other.bytes));
            }
        }
    }
    text
}

/// Its comments, and those of the packet of the input it is `of`.
fn about(packet: &Packet, input: Option<&Capture>) -> String {
    let number =
        packet.comments.first().and_then(|comment| comment.strip_prefix("of ")?.parse::<usize>().ok());
    let cause = number.and_then(|number| input?.packets.get(number.checked_sub(1)?));
    let cause = cause.map(|cause| format!(" ({})", cause.comments.join("; "))).unwrap_or_default();
    format!("{} bytes, {}{cause}", packet.bytes.len(), packet.comments.join("; "))
}

/// The lines of `bytes` that are not the same in `other`.
fn hex(text: &mut String, mark: char, bytes: &[u8], other: &[u8]) {
    for (index, line) in bytes.chunks(LINE).enumerate() {
        let at = index * LINE;
        let there = other.get(at..other.len().min(at + LINE)).unwrap_or_default();
        if line != there {
            let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{mark}   {at:04x}  {}", line.join(" ")).unwrap();
        }
    }
}

#[test]
fn a_difference_names_packet_port_and_bytes() {
    let packet = |bytes: &[u8]| Packet {
        interface: 0,
        at: 1_000_007,
        bytes: bytes.to_vec(),
        comments: vec!["of 1".into()],
    };
    let capture = |bytes: &[u8]| Capture { interfaces: vec!["a/eth0".into()], packets: vec![packet(bytes)] };
    let mut input = capture(b"");
    input.packets[0].comments = vec!["a says hello".into()];
    let said =
        packets(&capture(&[7; 20]).write(), &capture(&[[7; 17], [8; 17]].concat()).write(), Some(&input));
    assert_eq!(
        said,
        "1 packets where there were 1\nthe first that differs is packet 1\n\
         - at 1000.007 on a/eth0: 20 bytes, of 1 (a says hello)\n-   0010  07 07 07 07\n\
         + at 1000.007 on a/eth0: 34 bytes, of 1 (a says hello)\n\
         +   0010  07 08 08 08 08 08 08 08 08 08 08 08 08 08 08 08\n+   0020  08 08\n"
    );
    assert_eq!(lines("a\nb\nc\n", "a\nx\nc\nd\n"), "- b\n+ x\n+ d\n");
}
