//! The name server's answers, without a network: who is told what, and any bytes as a question.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "corpus/questions.rs"]
mod questions;

use std::path::Path;
use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use switch::port::{NetworkId, PortId};
use vswitchd::names::message::{self, Limit, Outcome};

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

/// What the container behind port 0, on `blue`, is told: a code and the records' data; or that others are asked.
fn told(port: u16, name: &str, kind: RecordType) -> String {
    let names = questions::names();
    let asker = names.asker(PortId(port), NetworkId(port)).unwrap();
    let bytes = question(name, kind).to_vec().unwrap();
    let answer = match message::consider(&bytes, &asker, Limit(1452)) {
        Outcome::Answered(answer) | Outcome::Refused(answer) => answer,
        Outcome::Malformed(_) => return "malformed".into(),
        Outcome::Forward(_) => return "forward".into(),
    };
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.queries, Message::from_vec(&bytes).unwrap().queries, "the question to the letter");
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
    let records = answer.answers.iter().map(|record| match &record.data {
        RData::A(a) => a.0.to_string(),
        RData::AAAA(a) => a.0.to_string(),
        RData::PTR(name) => name.0.to_string(),
        other => format!("{other:?}"),
    });
    let code = match answer.metadata.response_code {
        ResponseCode::NoError => "ok",
        ResponseCode::NXDomain => "nothing",
        ResponseCode::Refused => "refused",
        _ => "else",
    };
    [code.to_owned()].into_iter().chain(records).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_container_is_told_names_of_its_networks() {
    use RecordType::{A, AAAA, ANY, HTTPS, MX, NS, PTR, TXT};
    for (name, kind, said) in [
        ("b.", A, "ok 10.1.0.3"),
        ("b.", AAAA, "ok fd00:1::3"),
        ("b.", ANY, "ok 10.1.0.3 fd00:1::3"),
        ("WWW.Blue.", A, "ok 10.1.0.3"),
        ("a.", AAAA, "ok"),
        ("a.", HTTPS, "ok"),
        ("gateway.blue.", A, "ok 10.1.0.1"),
        ("blue.", A, "ok"),
        ("nosuch.", A, "nothing"),
        ("x.", A, "nothing"),
        ("x.red.", TXT, "nothing"),
        ("gateway.", A, "nothing"),
        ("nosuch.blue.", A, "forward"),
        ("api.example.com.", A, "forward"),
        ("com.", NS, "forward"),
        (".", NS, "forward"),
        ("a\\.blue.", A, "forward"),
        ("localhost.", A, "ok 127.0.0.1"),
        ("x.localhost.", AAAA, "ok ::1"),
        ("localhost.", MX, "ok"),
        ("3.0.1.10.in-addr.arpa.", PTR, "ok B.blue."),
        ("3.0.1.10.in-addr.arpa.", A, "ok"),
        ("1.0.1.10.in-addr.arpa.", PTR, "ok gateway.blue."),
        ("9.0.1.10.in-addr.arpa.", PTR, "nothing"),
        ("0.1.10.in-addr.arpa.", PTR, "ok"),
        ("_x.3.0.1.10.in-addr.arpa.", PTR, "nothing"),
        ("1.10.in-addr.arpa.", PTR, "forward"),
        ("2.0.2.10.in-addr.arpa.", PTR, "nothing"),
        ("2.0.3.10.in-addr.arpa.", PTR, "forward"),
        ("1.0.0.127.in-addr.arpa.", PTR, "ok localhost."),
        ("0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", PTR, "ok"),
        ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", PTR, "ok B.blue."),
        ("4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", PTR, "nothing"),
    ] {
        assert_eq!(told(0, name, kind), said, "{name} {kind}");
    }
    for (name, kind, said) in [
        ("x.", A, "ok 10.2.0.2"),
        ("api.example.com.", A, "ok 10.2.0.2"),
        ("b.", A, "nothing"),
        ("example.com.", A, "refused"),
        ("nosuch.red.", A, "nothing"),
        ("3.0.1.10.in-addr.arpa.", PTR, "nothing"),
        ("8.8.8.8.in-addr.arpa.", PTR, "refused"),
    ] {
        assert_eq!(told(1, name, kind), said, "{name} {kind}, no way out");
    }
}

#[test]
fn the_host_is_told_names_of_ours_and_no_others() {
    let names = questions::names().with_host([PortId(0)]);
    let asker = names.asker(PortId(0), NetworkId(0)).unwrap();
    for (name, code, answers) in [
        ("b.", ResponseCode::NoError, 1),
        ("b.blue.", ResponseCode::NoError, 1),
        ("nosuch.", ResponseCode::NXDomain, 0),
        ("nosuch.blue.", ResponseCode::NXDomain, 0),
        ("x.red.", ResponseCode::NXDomain, 0),
        ("api.example.com.", ResponseCode::Refused, 0),
        ("8.8.8.8.in-addr.arpa.", ResponseCode::Refused, 0),
    ] {
        let bytes = question(name, RecordType::A).to_vec().unwrap();
        let answer = match message::consider(&bytes, &asker, Limit(1452)) {
            Outcome::Answered(answer) | Outcome::Refused(answer) => Message::from_vec(&answer).unwrap(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, answers), "{name}");
    }
}

#[test]
fn an_answer_is_as_long_as_the_asker_takes() {
    use vswitchd::names::table::{Member, Names, Zone};
    let members = (0..100u8).map(|n| Member {
        name: format!("c{n}"),
        aliases: vec!["all".into()],
        addresses: vec![[10, 9, 0, n].into()],
    });
    let zone = Zone {
        id: NetworkId(0),
        name: "blue".into(),
        subnets: vec![],
        gateways: vec![],
        mtu: 1500,
        forwards: false,
        members: members.collect(),
    };
    let names = Names::new(vec![zone], [(PortId(0), vec![NetworkId(0)])]);
    let asker = names.asker(PortId(0), NetworkId(0)).unwrap();
    for (takes, most, whole) in [
        (None, Limit(1452), false),
        (Some(4096), Limit(1452), false), // more than 1232 bytes may be lost on the way
        (Some(4096), Limit::STREAM, true),
    ] {
        let mut asked = question("all.", RecordType::A);
        if let Some(takes) = takes {
            let mut edns = Edns::new();
            edns.set_max_payload(takes);
            asked.set_edns(edns);
        }
        let Outcome::Answered(answer) = message::consider(&asked.to_vec().unwrap(), &asker, most) else {
            panic!()
        };
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.truncation, !whole);
        assert_eq!(answer.answers.len(), if whole { 100 } else { 0 });
        assert_eq!(answer.edns.is_some(), takes.is_some(), "who says it is told");
    }
}

#[test]
fn whom_a_container_may_have_asked_is_in_its_rules() {
    use router::egress::{Rule, What};
    let rule = |allow, to: Option<&str>, what| Rule { allow, to: to.map(|to| to.parse().unwrap()), what };
    let within = [rule(true, Some("10.0.0.0/8"), What::All), rule(false, None, What::All)];
    let by_udp = [rule(true, None, What::Udp(53, 53)), rule(false, None, What::All)];
    let egress = [None, Some(within.as_slice().into()), Some(by_udp.as_slice().into())];
    let names = vswitchd::names::table::Names::default().with_egress(Box::new(egress));
    for (port, proto, resolver, may) in [
        (0, 17, "192.0.2.1:53", true),
        (1, 17, "192.0.2.1:53", false),
        (1, 17, "127.0.0.53:53", false),
        (1, 6, "10.9.9.9:53", true),
        (2, 17, "[2001:db8::1]:53", true),
        (2, 6, "[2001:db8::1]:53", false),
        (3, 6, "192.0.2.1:53", true),
    ] {
        assert_eq!(names.may_ask(PortId(port), proto, resolver.parse().unwrap()), may, "{port} {resolver}");
    }
}

#[test]
fn an_answer_is_one_to_the_question() {
    let query = question("example.com.", RecordType::A).to_vec().unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut answer = query.clone();
        answer[2] |= 0x80;
        change(&mut answer);
        message::is_answer(&answer, &query)
    };
    assert!(with(&|_| {}));
    assert!(with(&|answer| answer[13] = b'E'), "names have no case");
    assert!(!with(&|answer| answer[0] ^= 1), "another id");
    assert!(!with(&|answer| answer[13] = b'x'), "another name");
    assert!(!with(&|answer| answer[2] &= 0x7f), "a question");
    assert!(!with(&|answer| *answer.last_mut().unwrap() = 3), "another class");
    assert!(!with(&|answer| answer.truncate(20)));
    assert!(!with(&|answer| (answer[5], answer[3]) = (0, 0)), "no question, and nothing is wrong");
    assert!(with(&|answer| (answer[5], answer[3]) = (0, 1)), "no question: it could not be read");
}

/// A name says what it comes to, before the first `-`.
#[test]
fn the_corpus_comes_to_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/dns");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let said = questions::check(&std::fs::read(&path).unwrap());
        assert_eq!(name.split('-').next(), Some(said), "{name}");
        count += 1;
    }
    assert!(count >= 15, "only {count} files");
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        questions::check(&bytes);
    }

    #[test]
    fn a_question_with_any_change_is_taken(
        name in "[a-z.]{0,40}",
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let Ok(name) = Name::from_str(&format!("{name}.")) else { return Ok(()) };
        let mut asked = question("a.", RecordType::A);
        asked.queries[0].set_name(name);
        asked.set_edns(Edns::new());
        let mut bytes = asked.to_vec().unwrap();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        questions::check(&bytes);
    }
}
