//! What must hold of every answer of the name server, whatever it is asked.

use std::net::IpAddr;

use switch::port::{NetworkId, PortId};
use vswitchd::names::message::{self, Limit, Outcome};
use vswitchd::names::table::{Member, Names, Zone};

/// `blue` with `a`, `b` (also `www`), which is behind port 0 and forwards; `red` with `x`, which does not.
pub fn names() -> Names {
    let zone = |id, name: &str, subnets: [&str; 2], forwards, members| Zone {
        id: NetworkId(id),
        name: name.into(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        gateways: vec![subnets[0].replace("0/24", "1").parse().unwrap()],
        mtu: 1500,
        forwards,
        members,
    };
    let member = |name: &str, aliases: &[&str], addresses: &[&str]| Member {
        name: name.into(),
        aliases: aliases.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect(),
    };
    let blue = vec![member("a", &[], &["10.1.0.2"]), member("B", &["www"], &["10.1.0.3", "fd00:1::3"])];
    let red = vec![member("x", &["api.example.com"], &["10.2.0.2"])];
    let zones = vec![
        zone(0, "blue", ["10.1.0.0/24", "fd00:1::/64"], true, blue),
        zone(1, "red", ["10.2.0.0/24", "fd00:2::/64"], false, red),
    ];
    Names::new(zones, [(PortId(0), vec![NetworkId(0)]), (PortId(1), vec![NetworkId(1)])])
}

/// What it comes to: `answered`, `refused`, `malformed` or `forward`.
pub fn check(bytes: &[u8]) -> &'static str {
    let names = names();
    let mut said = "";
    for (port, most) in [(1, Limit(1452)), (1, Limit::STREAM), (0, Limit(1452)), (0, Limit::STREAM)] {
        let asker = names.asker(PortId(port), NetworkId(port)).unwrap();
        let (answer, what) = match message::consider(bytes, &asker, most) {
            Outcome::Answered(answer) => (Some(answer), "answered"),
            Outcome::Refused(answer) => (Some(answer), "refused"),
            Outcome::Malformed(answer) => (answer, "malformed"),
            Outcome::Forward(limit) => {
                assert!(port == 0, "forwarded for a network that has no way out");
                assert!(limit.0 >= 512 && limit.0 <= most.0);
                assert!(message::is_failure(&message::failure(bytes)));
                assert!(message::is_answer(&message::failure(bytes), bytes));
                (None, "forward")
            }
        };
        if let Some(answer) = answer {
            assert!(answer.len() >= 12 && answer.len() <= most.0.min(4096), "{} bytes", answer.len());
            assert_eq!(message::id(&answer), message::id(bytes));
            assert_eq!(answer[2] & 0x80, 0x80, "it is an answer");
            assert!(
                matches!(message::consider(&answer, &asker, most), Outcome::Malformed(None)),
                "it is not answered"
            );
        }
        said = what;
    }
    // Whatever it is, as somebody's answer to a question it does no harm.
    let _ = message::passed_on(bytes.to_vec(), 7, Limit(512)).map(|cut| assert!(cut.len() <= 512));
    said
}
