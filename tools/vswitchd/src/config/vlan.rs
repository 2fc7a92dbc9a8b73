//! `vlan`, `trunk` and `isolated`: which VLANs an interface carries, and where a network's gateway is.

use std::ops::Range;

use super::edit::InterfaceOptions;
use super::model::Network;
use super::problem::Problem;
use super::report::{At, Reporter};
use super::schema::Section;
use super::value::Number;

/// What an interface says of VLANs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vlans {
    /// Untagged in both directions.
    pub vlan: Option<u16>,
    /// Tagged; none: nothing was said of it.
    pub trunk: Vec<u16>,
}

/// A VLAN identifier.
pub(super) fn vid(key: &'static str, number: &Number) -> Result<u16, Problem> {
    // IEEE 802.1Q-2018 table 9-2: 0 is no VLAN, 4095 is reserved.
    let vid = number.value.and_then(|value| u16::try_from(value).ok());
    vid.filter(|vid| switch::vlan::VIDS.contains(vid)).ok_or_else(|| Problem::Invalid {
        key,
        found: number.text.clone(),
        why: "a VLAN is 1 to 4094; frames without a tag are in none, and need no key".into(),
    })
}

impl Vlans {
    /// The keys of `[[container.interface]]`.
    pub fn of(section: &Section<'_>, reporter: &mut Reporter<'_>) -> Self {
        let vlan = section.number("vlan").and_then(|at| reporter.check(&at.span, vid("vlan", &at.value)));
        let Some((items, span)) = section.numbers("trunk") else { return Self { vlan, trunk: Vec::new() } };
        reporter.check(&span, some(&items));
        let mut trunk = Vec::new();
        for At { value, span } in items {
            let checked = vid("trunk", &value).and_then(|vid| one_more(vid, vlan, &trunk));
            trunk.extend(reporter.check(&span, checked));
        }
        trunk.sort_unstable();
        Self { vlan, trunk }
    }

    /// Whether the gateway of `network` is in one of them: what is published leads by it.
    pub fn reach(&self, network: &Network) -> Result<(), Problem> {
        let all = self.vlan.is_none() && self.trunk.is_empty();
        if all || network.vlan.is_some_and(|vlan| self.vlan == Some(vlan) || self.trunk.contains(&vlan)) {
            return Ok(());
        }
        Err(Problem::PublishOtherVlan { network: network.name.clone(), vlan: network.vlan })
    }

    /// The keys, as asked for at run time.
    pub fn asked(options: &InterfaceOptions) -> Result<Self, Problem> {
        let vlan = options.vlan.map(|vlan| vid("vlan", &vlan.into())).transpose()?;
        let mut trunk = Vec::new();
        if let Some(items) = &options.trunk {
            some(items)?;
            for item in items {
                trunk.push(vid("trunk", &(*item).into()).and_then(|vid| one_more(vid, vlan, &trunk))?);
            }
        }
        trunk.sort_unstable();
        Ok(Self { vlan, trunk })
    }
}

fn some<T>(items: &[T]) -> Result<(), Problem> {
    let why = "it names no VLAN; without the key the interface carries all of them, tagged";
    if items.is_empty() { Err(invalid("[]", why)) } else { Ok(()) }
}

fn one_more(vid: u16, native: Option<u16>, trunk: &[u16]) -> Result<u16, Problem> {
    let why = if trunk.contains(&vid) {
        "it is there twice; once is enough"
    } else if native == Some(vid) {
        "it is the `vlan` of the same interface, and there it is untagged: leave it out here"
    } else {
        return Ok(vid);
    };
    Err(invalid(&vid.to_string(), why))
}

fn invalid(found: &str, why: &'static str) -> Problem {
    Problem::Invalid { key: "trunk", found: found.to_owned(), why: why.into() }
}

/// Numbers of an array with their places, and where the array is.
pub(super) type Numbers = (Vec<At<Number>>, Range<usize>);
