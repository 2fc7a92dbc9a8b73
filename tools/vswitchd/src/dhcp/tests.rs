//! The tables of RFC 2131, and what is no message.

use std::net::IpAddr;

use dhcproto::v4::{DhcpOption, Flags, Message, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;
use switch::checksum::sum;
use switch::mac::MacAddr;

use super::*;
use crate::config::{Config, parse};
use crate::ipam::lease::{ClientId, LEASES_PER_PORT};

const LAB: &str = "
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
mtu = 1400
dhcp = true
[[network]]
name = \"tiny\"
subnet = \"10.2.0.0/28\"
internal = true
dhcp = true
[[container]]
name = \"vm\"
[[container.interface]]
network = \"blue\"
[[container.interface]]
network = \"tiny\"
[[container]]
name = \"other\"
[[container.interface]]
network = \"blue\"
ip = \"10.1.0.9\"
[[container.interface]]
network = \"tiny\"
";

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const NESTED: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const NOBODY: fn(Ipv4Addr) -> bool = |_| false;

/// A daemon with its tables.
struct Lab {
    config: Config,
    memory: Memory,
    now: u64,
    taken: fn(Ipv4Addr) -> bool,
    granted: fn(Ipv4Addr) -> Grant,
}

impl Lab {
    fn new() -> Self {
        let config = parse("lab.toml", LAB.as_bytes()).unwrap();
        let mut memory = Memory::default();
        memory.settle(&config);
        Self { config, memory, now: 1000, taken: NOBODY, granted: |_| Grant::Yes }
    }

    fn interface(&self, container: &str, network: &str) -> Interface {
        let container = self.config.container(container).unwrap();
        container.interfaces.iter().find(|i| i.network == network).unwrap().clone()
    }

    fn bytes(&mut self, (container, network): (&str, &str), bytes: &[u8]) -> Result<Outcome, Malformed> {
        let interface = self.interface(container, network);
        let network = self.config.network(network).unwrap();
        let behind = Behind { network: &network.name, container, interface: &interface.name };
        let gateway = network.reserved_address().unwrap();
        let (taken, granted, now) = (&self.taken, &self.granted, self.now);
        let scope = Scope { behind, network, interface: &interface, gateway, dns: true, taken, granted, now };
        answer(bytes, &scope, &mut self.memory)
    }

    fn at(&mut self, place: (&str, &str), message: &Message) -> Outcome {
        self.bytes(place, &message.to_vec().unwrap()).unwrap()
    }

    /// From behind `vm` on `blue`.
    fn say(&mut self, message: &Message) -> Outcome {
        self.at(("vm", "blue"), message)
    }

    /// The whole conversation of a client that has nothing; the address it has then.
    fn lease(&mut self, place: (&str, &str), mac: MacAddr) -> Option<Ipv4Addr> {
        let gateway = self.config.network(place.1).unwrap().reserved_address().unwrap();
        let offer = self.at(place, &message(mac, MessageType::Discover)).reply?;
        let offered = read(&offer).yiaddr();
        let mut request = message(mac, MessageType::Request);
        ask(&mut request, [DhcpOption::RequestedIpAddress(offered), DhcpOption::ServerIdentifier(gateway)]);
        let outcome = self.at(place, &request);
        assert_eq!(outcome.event, Event::Acknowledged);
        assert_ne!(outcome.change, Change::Nothing);
        assert_eq!(read(&outcome.reply.unwrap()).yiaddr(), offered);
        Some(offered)
    }
}

fn message(mac: MacAddr, kind: MessageType) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, zero, zero, zero, zero, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn ask<const N: usize>(message: &mut Message, options: [DhcpOption; N]) {
    options.into_iter().for_each(|option| drop(message.opts_mut().insert(option)));
}

fn read(reply: &Reply) -> Message {
    Message::decode(&mut Decoder::new(&reply.message)).unwrap()
}

fn kind(outcome: &Outcome) -> Option<MessageType> {
    outcome.reply.as_ref().map(|reply| read(reply).opts().msg_type().unwrap())
}

fn option(message: &Message, code: OptionCode) -> Option<DhcpOption> {
    message.opts().get(code).cloned()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, last)
}

#[test]
fn the_interface_gets_its_own_address_and_all_there_is_to_know() {
    let mut lab = Lab::new();
    let own = lab.interface("vm", "blue");
    let mut discover = message(own.mac, MessageType::Discover);
    ask(&mut discover, [DhcpOption::ClientIdentifier(vec![1, 2, 3]), DhcpOption::AddressLeaseTime(120)]);
    let offer = lab.say(&discover);
    assert_eq!((kind(&offer), offer.change), (Some(MessageType::Offer), Change::Nothing));
    let reply = offer.reply.unwrap();
    assert_eq!((reply.mac, reply.address, reply.from), (own.mac, address(2), GATEWAY));
    assert_eq!(reply.message.len(), 300.max(reply.message.len()));
    let offer = read(&reply);
    assert_eq!((offer.opcode(), offer.xid(), offer.yiaddr()), (Opcode::BootReply, 7, address(2)));
    assert_eq!((offer.siaddr(), offer.ciaddr()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    for said in [
        DhcpOption::ServerIdentifier(GATEWAY),
        DhcpOption::ClientIdentifier(vec![1, 2, 3]),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::BroadcastAddr(address(255)),
        DhcpOption::Router(vec![GATEWAY]),
        DhcpOption::DomainNameServer(vec![GATEWAY]),
        DhcpOption::DomainName("blue".into()),
        DhcpOption::Hostname("vm".into()),
        DhcpOption::InterfaceMtu(1400),
        DhcpOption::AddressLeaseTime(120),
        DhcpOption::Renewal(60),
        DhcpOption::Rebinding(105),
    ] {
        let code = OptionCode::from(&said);
        assert_eq!(option(&offer, code), Some(said), "{code:?}");
    }
    let mut request = message(own.mac, MessageType::Request);
    ask(&mut request, [DhcpOption::RequestedIpAddress(address(2)), DhcpOption::ServerIdentifier(GATEWAY)]);
    let ack = lab.say(&request);
    assert_eq!((kind(&ack), ack.event), (Some(MessageType::Ack), Event::Acknowledged));
    assert_eq!(
        option(&read(&ack.reply.unwrap()), OptionCode::ClientIdentifier),
        None,
        "RFC 6842: none was sent"
    );
    assert_eq!(lab.memory.leases("blue").count(), 0);

    // One that has the address set is told the same.
    let other = lab.interface("other", "blue");
    let offer = lab.at(("other", "blue"), &message(other.mac, MessageType::Discover)).reply.unwrap();
    assert_eq!(read(&offer).yiaddr(), address(9));
    // It has another way out already: no second default route, and no way out of an internal network for a guest.
    let second = lab.interface("vm", "tiny");
    let offer = lab.at(("vm", "tiny"), &message(second.mac, MessageType::Discover)).reply.unwrap();
    assert_eq!(option(&read(&offer), OptionCode::Router), None);
    let offer = lab.at(("vm", "tiny"), &message(NESTED, MessageType::Discover)).reply.unwrap();
    assert_eq!(option(&read(&offer), OptionCode::Router), None);
}

#[test]
fn a_wrong_wish_is_refused_to_all_whatever_the_flags() {
    let mut lab = Lab::new();
    let own = lab.interface("vm", "blue").mac;
    for wish in [address(3), Ipv4Addr::new(192, 168, 1, 1), address(1), address(0), address(255)] {
        for mac in [own, NESTED] {
            let mut request = message(mac, MessageType::Request);
            ask(&mut request, [DhcpOption::RequestedIpAddress(wish)]); // INIT-REBOOT
            let by_asking = lab.say(&request);
            let mut request = message(mac, MessageType::Request);
            request.set_ciaddr(wish); // RENEWING or REBINDING
            for outcome in [by_asking, lab.say(&request)] {
                let is_free = mac == NESTED && wish == address(3);
                assert_eq!(kind(&outcome), Some(if is_free { MessageType::Ack } else { MessageType::Nak }));
                let reply = outcome.reply.unwrap();
                if !is_free {
                    assert_eq!((reply.mac, reply.address), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
                    assert_eq!(read(&reply).yiaddr(), Ipv4Addr::UNSPECIFIED);
                    assert_eq!(option(&read(&reply), OptionCode::AddressLeaseTime), None);
                }
            }
        }
    }
    // What is another's: interface or guest.
    let taken = lab.lease(("other", "blue"), NESTED).unwrap();
    for wish in [address(9), address(2), taken] {
        let mut request = message(MacAddr([2, 0, 0, 0, 0, 8]), MessageType::Request);
        ask(&mut request, [DhcpOption::RequestedIpAddress(wish)]);
        assert_eq!(kind(&lab.say(&request)), Some(MessageType::Nak));
    }
}

#[test]
fn guests_get_addresses_from_the_top_and_the_same_again() {
    let mut lab = Lab::new();
    let place = ("vm", "blue");
    assert_eq!(lab.lease(place, NESTED), Some(address(254)));
    assert_eq!(lab.lease(place, MacAddr([2, 0, 0, 0, 0, 8])), Some(address(253)));
    assert_eq!(lab.lease(("other", "blue"), NESTED), Some(address(252)), "another port, another client");
    // RENEWING: by unicast, and the answer goes there.
    lab.now += 1800;
    let mut renew = message(NESTED, MessageType::Request);
    renew.set_ciaddr(address(254));
    let renewed = lab.say(&renew);
    assert_eq!((renewed.event, renewed.change), (Event::Acknowledged, Change::Time));
    let reply = renewed.reply.unwrap();
    assert_eq!((reply.mac, reply.address, read(&reply).ciaddr()), (NESTED, address(254), address(254)));
    // The others let theirs go.
    lab.now += 1801;
    assert!(lab.memory.expire(lab.now) && !lab.memory.expire(lab.now));
    let left: Vec<_> = lab.memory.leases("blue").map(|(address, ..)| address).collect();
    assert_eq!(left, [address(254)]);
    // Somebody new does not get what rests; who had it does, even long after.
    assert_eq!(lab.lease(place, MacAddr([2, 0, 0, 0, 0, 9])), Some(address(251)));
    lab.now += 100_000;
    assert!(lab.memory.expire(lab.now));
    assert_eq!(lab.lease(place, MacAddr([2, 0, 0, 0, 0, 8])), Some(address(253)));
    // What it would like, if nobody had it.
    let mut discover = message(MacAddr([2, 0, 0, 0, 0, 10]), MessageType::Discover);
    ask(&mut discover, [DhcpOption::RequestedIpAddress(address(77))]);
    assert_eq!(read(&lab.say(&discover).reply.unwrap()).yiaddr(), address(77));
}

/// Of a cluster: nothing is said before the address is granted, and what is another's is given to nobody.
#[test]
fn what_is_not_granted_is_not_lent() {
    let mut lab = Lab::new();
    lab.granted = |_| Grant::Ask;
    let discover = message(NESTED, MessageType::Discover);
    let kept = lab.say(&discover);
    assert_eq!((kept.event, kept.reply), (Event::Unclaimed(address(254)), None));
    assert_eq!(
        lab.say(&discover).event,
        Event::Unclaimed(address(254)),
        "and asked for again it is the same"
    );
    // Nor is it acknowledged, whether it was offered or is only wished for.
    for (mac, wish) in [(NESTED, 254), (MacAddr([2, 0, 0, 0, 0, 8]), 77)] {
        let mut request = message(mac, MessageType::Request);
        ask(&mut request, [DhcpOption::RequestedIpAddress(address(wish))]);
        let kept = lab.say(&request);
        assert_eq!((kept.event, kept.change), (Event::Unclaimed(address(wish)), Change::Nothing));
        assert_eq!(kept.reply, None);
    }
    // Another host was faster: another one is kept.
    lab.granted = |it| if it == address(254) { Grant::No } else { Grant::Ask };
    lab.taken = |it| it == address(254);
    assert_eq!(lab.say(&discover).event, Event::Unclaimed(address(253)));
    lab.granted = |_| Grant::Yes;
    assert_eq!(lab.lease(("vm", "blue"), NESTED), Some(address(253)));
    // The interface's own is claimed by whoever attaches it, and what is held is held without asking.
    lab.granted = |_| Grant::Ask;
    let own = lab.interface("vm", "blue").mac;
    assert_eq!(kind(&lab.say(&message(own, MessageType::Discover))), Some(MessageType::Offer));
    let mut renew = message(NESTED, MessageType::Request);
    renew.set_ciaddr(address(253));
    assert_eq!((kind(&lab.say(&renew)), lab.say(&renew).change), (Some(MessageType::Ack), Change::Time));
    // Unless it is another's by now: the client is told, and nobody here has it any more.
    lab.granted = |_| Grant::No;
    lab.taken = |_| true;
    let lost = lab.say(&renew);
    assert_eq!((kind(&lost), lost.change), (Some(MessageType::Nak), Change::Owner));
    assert!(lab.memory.leases("blue").all(|(it, ..)| it != address(253)));
}

#[test]
fn release_and_decline_and_inform() {
    let mut lab = Lab::new();
    let place = ("vm", "blue");
    let had = lab.lease(place, NESTED).unwrap();
    let mut release = message(NESTED, MessageType::Release);
    release.set_ciaddr(address(3));
    ask(&mut release, [DhcpOption::ServerIdentifier(GATEWAY)]);
    assert_eq!(lab.say(&release).event, Event::Ignored, "not what it has");
    release.set_ciaddr(had);
    assert_eq!(lab.at(("other", "blue"), &release).event, Event::Ignored, "from another port");
    let released = lab.say(&release);
    assert_eq!((released.event, released.change, released.reply), (Event::Released, Change::Owner, None));
    assert_eq!(lab.memory.leases("blue").count(), 0);

    assert_eq!(lab.lease(place, NESTED), Some(had), "the same again");
    let mut decline = message(NESTED, MessageType::Decline);
    ask(&mut decline, [DhcpOption::ServerIdentifier(GATEWAY), DhcpOption::RequestedIpAddress(had)]);
    let declined = lab.say(&decline);
    assert_eq!((declined.event, declined.change, declined.reply), (Event::Declined, Change::Owner, None));
    let next = lab.lease(place, NESTED).unwrap();
    assert_ne!(next, had);
    lab.now += DECLINED;
    assert!(!lab.memory.expire(lab.now), "it was nobody's");
    assert!(lab.memory.of("blue").all(|(address, _)| address != IpAddr::V4(had)));

    let mut inform = message(NESTED, MessageType::Inform);
    inform.set_ciaddr(address(50));
    let informed = lab.say(&inform);
    assert_eq!((kind(&informed), informed.event), (Some(MessageType::Ack), Event::Informed));
    let reply = informed.reply.unwrap();
    assert_eq!((reply.mac, reply.address), (NESTED, address(50)));
    let told = read(&reply);
    assert_eq!((told.yiaddr(), option(&told, OptionCode::AddressLeaseTime)), (Ipv4Addr::UNSPECIFIED, None));
    assert_eq!(option(&told, OptionCode::InterfaceMtu), Some(DhcpOption::InterfaceMtu(1400)));
    inform.set_ciaddr(Ipv4Addr::new(10, 9, 9, 9));
    assert_eq!(lab.say(&inform).reply, None);
}

#[test]
fn another_server_is_another_matter_and_the_flag_says_how_to_answer() {
    let mut lab = Lab::new();
    let mut discover = message(NESTED, MessageType::Discover);
    discover.set_flags(Flags::default().set_broadcast());
    let offer = lab.say(&discover).reply.unwrap();
    assert_eq!((offer.mac, offer.address), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
    assert!(read(&offer).flags().broadcast());
    assert_eq!(lab.memory.leases("blue").count(), 1);
    let mut request = message(NESTED, MessageType::Request);
    ask(
        &mut request,
        [DhcpOption::RequestedIpAddress(read(&offer).yiaddr()), DhcpOption::ServerIdentifier(address(3))],
    );
    assert_eq!(lab.say(&request), Outcome::ignored());
    assert_eq!(lab.memory.leases("blue").count(), 0, "our offer is free again");
    // An offer nobody takes is over in time.
    lab.say(&discover);
    lab.now += OFFER;
    assert!(!lab.memory.expire(lab.now));
    assert_eq!(lab.memory.of("blue").filter(|(_, entry)| entry.lease.is_some()).count(), 0);
}

#[test]
fn one_port_cannot_take_all() {
    let mut lab = Lab::new();
    let mac = |index: usize| MacAddr::from_u64(0x0200_0000_0000 + index as u64);
    let offers = (0..10_000)
        .filter(|index| lab.say(&message(mac(*index), MessageType::Discover)).event == Event::Offered);
    assert_eq!(offers.count(), LEASES_PER_PORT);
    assert_eq!(lab.say(&message(mac(20_000), MessageType::Discover)).event, Event::NoAddress(NoLease::Quota));
    assert!(lab.lease(("other", "blue"), NESTED).is_some());
    // Of a small pool as many as it leaves: 13 for containers, two of them interfaces'.
    let tiny = (0..100).filter(|index| lab.lease(("vm", "tiny"), mac(*index)).is_some()).count();
    assert_eq!(tiny, 6);
    assert_eq!((0..100).filter(|index| lab.lease(("other", "tiny"), mac(*index)).is_some()).count(), 3);
    let interface = lab.interface("other", "tiny").mac;
    assert!(lab.lease_of_interface(("other", "tiny"), interface));
    // However it goes on, what others had stays remembered.
    let before = lab.memory.clone();
    for index in 0..5000 {
        let Some(held) = lab.lease(("vm", "tiny"), mac(index)) else { continue };
        let mut release = message(mac(index), MessageType::Release);
        release.set_ciaddr(held);
        assert_eq!(lab.at(("vm", "tiny"), &release).event, Event::Released);
    }
    assert!(
        lab.memory.of("tiny").filter(|(_, entry)| entry.lease.is_some()).count() <= 6 + 3 + LEASES_PER_PORT
    );
    for (address, entry) in before.of("tiny").filter(|(_, entry)| entry.container == "other") {
        assert!(lab.memory.of("tiny").any(|(at, is)| at == address && is == entry), "{address}");
    }
}

impl Lab {
    fn lease_of_interface(&mut self, place: (&str, &str), mac: MacAddr) -> bool {
        kind(&self.at(place, &message(mac, MessageType::Discover))) == Some(MessageType::Offer)
    }
}

#[test]
fn an_address_that_somebody_uses_is_not_given() {
    let mut lab = Lab::new();
    lab.taken = |address| address.octets()[3] >= 250;
    assert_eq!(lab.lease(("vm", "blue"), NESTED), Some(address(249)));
}

#[test]
fn leases_go_with_what_they_were_given_by() {
    let mut lab = Lab::new();
    lab.lease(("vm", "blue"), NESTED).unwrap();
    lab.lease(("other", "blue"), NESTED).unwrap();
    let held = |lab: &Lab| lab.memory.leases("blue").map(|(address, ..)| address).collect::<Vec<_>>();
    assert!(!lab.memory.settle(&lab.config));
    assert_eq!(held(&lab).len(), 2);
    let text = serde_json::to_string(&lab.memory).unwrap();
    assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), lab.memory, "{text}");
    // An interface that names the address has it.
    let named = LAB.replace("10.1.0.9", "10.1.0.254");
    lab.memory.settle(&parse("lab.toml", named.as_bytes()).unwrap());
    assert_eq!(held(&lab), [address(253)]);
    // One that names none keeps off.
    let config = parse("lab.toml", LAB.as_bytes()).unwrap();
    lab.memory.settle(&config);
    lab.memory.settle(&parse("lab.toml", LAB.replace("dhcp = true", "").as_bytes()).unwrap());
    assert_eq!(held(&lab), Vec::<Ipv4Addr>::new(), "a network without DHCP leases nothing");
}

#[test]
fn client_identifiers_are_written_and_read() {
    for text in ["01", "0", "", "0g00", "zz", "01éf"] {
        text.parse::<ClientId>().unwrap_err();
    }
    assert_eq!("0102ff".parse::<ClientId>().unwrap().to_string(), "0102ff");
    assert_eq!(ClientId::of_mac(NESTED).to_string(), "01020000000007");
}

#[test]
fn what_is_no_request_is_not_answered() {
    let good = message(NESTED, MessageType::Discover).to_vec().unwrap();
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        Lab::new().bytes(("vm", "blue"), &bytes).unwrap_err()
    };
    let options = |options: &[u8]| {
        let mut bytes = good[..240].to_vec();
        bytes.extend_from_slice(options);
        Lab::new().bytes(("vm", "blue"), &bytes).unwrap_err()
    };
    assert_eq!(Lab::new().bytes(("vm", "blue"), &good).unwrap().event, Event::Offered);
    assert_eq!(edited(|bytes| bytes.truncate(239)), Malformed::Short);
    assert_eq!(edited(|bytes| bytes[0] = 2), Malformed::NotARequest);
    assert_eq!(edited(|bytes| bytes[1] = 6), Malformed::Hardware);
    assert_eq!(edited(|bytes| bytes[2] = 255), Malformed::Hardware);
    assert_eq!(edited(|bytes| bytes[28] = 1), Malformed::Mac);
    assert_eq!(edited(|bytes| bytes[28..34].fill(0)), Malformed::Mac);
    assert_eq!(edited(|bytes| bytes[24] = 10), Malformed::Relayed);
    assert_eq!(edited(|bytes| bytes[236] = 0), Malformed::Cookie);
    assert_eq!(options(&[]), Malformed::NoType);
    assert_eq!(options(&[53, 1]), Malformed::Cut);
    assert_eq!(options(&[53, 1, 1, 12]), Malformed::Cut);
    assert_eq!(options(&[53, 1, 1, 12, 255, 0, 0]), Malformed::Cut);
    assert_eq!(options(&[53, 1, 1, 0, 53, 1, 3, 255]), Malformed::Option(53));
    assert_eq!(options(&[53, 2, 1, 1, 255]), Malformed::Option(53));
    assert_eq!(options(&[53, 1, 1, 50, 3, 10, 1, 0, 255]), Malformed::Option(50));
    assert_eq!(options(&[53, 1, 1, 61, 1, 1, 255]), Malformed::Option(61));
    assert_eq!(options(&[53, 1, 1, 52, 1, 3, 255]), Malformed::Option(52));
    assert_eq!(
        options(&[53, 1, 1, 121, 1, 200, 52, 1, 3, 255]),
        Malformed::Option(52),
        "what is not ours is skipped"
    );
}

#[test]
fn a_packet_is_written_as_it_is_read() {
    let mut lab = Lab::new();
    let reply = lab.say(&message(NESTED, MessageType::Discover)).reply.unwrap();
    let mut packet = [0xaa; 2048];
    let len = reply.write(&mut packet).unwrap();
    let packet = &packet[..len];
    assert_eq!(sum(&packet[..20]), 0xffff);
    assert_eq!((&packet[12..16], &packet[16..20]), (&GATEWAY.octets()[..], &reply.address.octets()[..]));
    assert_eq!(packet[20..24], [0, 67, 0, 68]);
    // Back to a server it is read, whole and unharmed only.
    let mut back = packet.to_vec();
    back[20..24].copy_from_slice(&[0, 68, 0, 67]);
    assert_eq!(payload(&back), Some(&reply.message[..]), "swapping l4 ports keeps the sum");
    assert_eq!(payload(packet), None);
    for cut in 0..back.len() {
        assert_eq!(payload(&back[..cut]), None);
    }
    for at in [0, 9, 24, 25, 26, 40, 300] {
        let mut bad = back.clone();
        bad[at] ^= 1;
        assert_eq!(payload(&bad), None, "byte {at}");
    }
    assert_eq!(reply.write(&mut [0; 100]), None);
}

/// Bytes that come near to messages: a good one, edited here and there, with other options.
fn near_misses() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((0usize..240, any::<u8>()), 0..4);
    let options =
        proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..8)), 0..8);
    (edits, options, 1u8..9, any::<bool>()).prop_map(|(edits, options, kind, end)| {
        let mut bytes = message(NESTED, MessageType::Discover).to_vec().unwrap();
        edits.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(240);
        bytes.extend([53, 1, kind]);
        for (code, data) in options {
            bytes.extend([code, data.len() as u8]);
            bytes.extend(data);
        }
        if end {
            bytes.push(255);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = Lab::new().bytes(("vm", "blue"), &bytes);
        let _ = payload(&bytes);
    }

    /// Whatever clients say, no two hold an address, none holds an interface's, and a port holds no more than it may.
    #[test]
    fn any_conversation_keeps_the_tables_sound(
        said in proptest::collection::vec((any::<bool>(), any::<bool>(), near_misses(), 0u64..2000), 1..40)
    ) {
        let mut lab = Lab::new();
        for (vm, blue, bytes, later) in said {
            lab.now += later;
            lab.memory.expire(lab.now);
            let place = (if vm { "vm" } else { "other" }, if blue { "blue" } else { "tiny" });
            if let Ok(Outcome { reply: Some(reply), .. }) = lab.bytes(place, &bytes) {
                prop_assert!(reply.message.len() >= 300 && reply.message.len() < 576);
                prop_assert_eq!(read(&reply).opcode(), Opcode::BootReply);
            }
            for network in &lab.config.networks {
                let pool = Pool::of(network).unwrap();
                let mut held = std::collections::HashMap::new();
                for (address, entry, _) in lab.memory.leases(&network.name) {
                    prop_assert!(pool.has(address));
                    *held.entry((entry.container.clone(), entry.interface.clone())).or_insert(0) += 1;
                }
                prop_assert!(held.values().all(|held| *held <= LEASES_PER_PORT));
            }
            for (container, interface) in lab.config.interfaces() {
                let own = IpAddr::V4(interface.ip.unwrap().addr());
                prop_assert_eq!(&lab.memory.had(&interface.network, &container.name, &interface.name)[..1], &[own]);
            }
        }
    }
}
