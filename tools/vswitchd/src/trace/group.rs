//! To whom a frame for a group goes, in words.

use switch::flow::Packet;
use switch::groups::{Reach, Why};
use switch::port::PortId;
use switch::snapshot::Network;

use super::Names;

/// Listeners that are named; of more there is the number.
const NAMED: usize = 8;

/// To whom a frame that is flooded goes, and why; `None`: nobody looks who listens, or it is for no group.
pub(super) fn listeners(packet: &Packet, network: &Network, names: &Names) -> Option<String> {
    let groups = network.groups.as_ref()?;
    let reach = groups.reach(packet, &network.members);
    let what = packet.key.dst.to_canonical();
    let whom = match reach {
        Reach::All(Why::NotIp) => return None,
        Reach::All(Why::Link) => return Some(format!("{what} is of the link: to all others")),
        Reach::All(Why::Asks) => return Some("about groups, and for everybody: to all others".into()),
        Reach::All(Why::NoQuerier) => {
            return Some(format!(
                "{what} is a group, and nobody has answered yet who listens: to all others"
            ));
        }
        Reach::All(Why::Unreported) => {
            return Some(format!("{what} is a group that nobody reported: to all others"));
        }
        Reach::Members => format!("{what} is a group: to those who listen and to multicast routers"),
        Reach::Routers => "says who listens to which group: to multicast routers".into(),
    };
    let listens = |out: &&PortId| **out != packet.meta.port && groups.reaches(reach, packet, **out);
    let all: Vec<PortId> = network.members.iter().filter(listens).copied().collect();
    let named: Vec<String> = all.iter().take(NAMED).map(|out| names.port(*out)).collect();
    Some(match (all.len(), all.len().saturating_sub(NAMED)) {
        (0, _) => format!("{whom}, of which there is none"),
        (_, 0) => format!("{whom}: {}", named.join(", ")),
        (_, more) => format!("{whom}: {} and {more} more", named.join(", ")),
    })
}
