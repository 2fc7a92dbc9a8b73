//! As much of pcapng (draft-ietf-opsawg-pcapng) as the goldens are written in: one section, one Ethernet interface per
//! port, named, with times in milliseconds; enhanced packets with comments. Wireshark and tcpdump read it. Own code,
//! because the stable `pcap-file` crate is of 2023 and brings `syn` 1 for it.

use std::fmt;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// 10^-3 seconds.
const MILLISECONDS: u8 = 3;

/// A capture on several interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Their names.
    pub interfaces: Vec<String>,
    /// In the order of the file.
    pub packets: Vec<Packet>,
}

/// A frame that was seen on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Which of [`Capture::interfaces`].
    pub interface: usize,
    /// Milliseconds.
    pub at: u64,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What is said about it.
    pub comments: Vec<String>,
}

/// The file is not one of ours: at which byte, and what is wrong there.
#[derive(Debug)]
pub struct NotOurs(usize, &'static str);

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.0, self.1)
    }
}

impl Capture {
    pub fn write(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut section = BYTE_ORDER.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]); // version 1.0
        section.extend([0xff; 8]); // length not given
        block(&mut file, SECTION, &section);
        for name in &self.interfaces {
            let mut body = LINKTYPE_ETHERNET.to_le_bytes().to_vec();
            body.extend([0; 4]); // no limit of length
            option(&mut body, IF_NAME, name.as_bytes());
            option(&mut body, IF_TSRESOL, &[MILLISECONDS]);
            option(&mut body, END_OF_OPTIONS, &[]);
            block(&mut file, INTERFACE, &body);
        }
        for packet in &self.packets {
            let len = packet.bytes.len() as u32;
            let mut body = Vec::new();
            for word in [packet.interface as u32, (packet.at >> 32) as u32, packet.at as u32, len, len] {
                body.extend(word.to_le_bytes());
            }
            body.extend(&packet.bytes);
            pad(&mut body);
            for comment in &packet.comments {
                option(&mut body, COMMENT, comment.as_bytes());
            }
            if !packet.comments.is_empty() {
                option(&mut body, END_OF_OPTIONS, &[]);
            }
            block(&mut file, PACKET, &body);
        }
        file
    }

    pub fn read(file: &[u8]) -> Result<Self, NotOurs> {
        let mut capture = Self::default();
        let mut at = 0;
        while at < file.len() {
            let wrong = |what| NotOurs(at, what);
            let kind = word(file, at).ok_or(wrong("cut off"))?;
            let len = word(file, at + 4).ok_or(wrong("cut off"))? as usize;
            let whole = file.get(at..at + len).filter(|whole| whole.len() >= 12).ok_or(wrong("cut off"))?;
            let body = &whole[8..len - 4];
            match kind {
                SECTION if word(body, 0) == Some(BYTE_ORDER) => {}
                SECTION => return Err(wrong("big-endian")),
                INTERFACE => capture.interfaces.push(interface(body).ok_or(wrong("interface"))?),
                PACKET => capture.packets.push(packet(body).ok_or(wrong("packet"))?),
                _ => return Err(wrong("unknown block")),
            }
            at += len;
        }
        Ok(capture)
    }
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() as u32 + 12).to_le_bytes();
    file.extend(kind.to_le_bytes());
    file.extend(len);
    file.extend(body);
    file.extend(len);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn interface(body: &[u8]) -> Option<String> {
    let options = options(body.get(8..)?)?;
    let find = |code| options.iter().find(|(found, _)| *found == code).map(|(_, value)| *value);
    if word(body, 0)? != LINKTYPE_ETHERNET || find(IF_TSRESOL)? != [MILLISECONDS] {
        return None;
    }
    String::from_utf8(find(IF_NAME)?.to_vec()).ok()
}

fn packet(body: &[u8]) -> Option<Packet> {
    let len = word(body, 12)? as usize;
    let bytes = body.get(20..20 + len)?.to_vec();
    let comments = options(body.get(20 + len.next_multiple_of(4)..)?)?
        .into_iter()
        .filter(|(code, _)| *code == COMMENT)
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect();
    let at = u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?);
    Some(Packet { interface: word(body, 0)? as usize, at, bytes, comments })
}

fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while let Some((&[c0, c1, l0, l1], rest)) = bytes.split_first_chunk() {
        let (code, len) = (u16::from_le_bytes([c0, c1]), usize::from(u16::from_le_bytes([l0, l1])));
        if code == END_OF_OPTIONS {
            break;
        }
        options.push((code, rest.get(..len)?));
        bytes = rest.get(len.next_multiple_of(4)..)?;
    }
    Some(options)
}

#[test]
fn what_is_written_is_read() {
    let packet = |interface, at, bytes: &[u8], comments: &[&str]| Packet {
        interface,
        at,
        bytes: bytes.to_vec(),
        comments: comments.iter().map(|text| (*text).to_owned()).collect(),
    };
    let capture = Capture {
        interfaces: vec!["a/eth0".into(), "long-name/eth12".into()],
        packets: vec![
            packet(0, 1_000_000, b"12345", &["one", "and another"]),
            packet(1, 1 << 33, b"", &[]),
            packet(1, u64::MAX, b"1234", &["ü"]),
        ],
    };
    assert_eq!(Capture::read(&capture.write()).unwrap(), capture);
    for cut in 1..20 {
        let file = capture.write();
        assert!(Capture::read(&file[..file.len() - cut]).is_err());
    }
}
