//! What of ours is to be in flannel's store: one record, where it can be right.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::known::Known;
use super::super::records::{Key, Record};
use super::super::{Flannel, Says};
use super::{Backend, Lease, judge};

/// Where our record stands.
pub(in super::super) const fn own_key(ours: &Flannel) -> Key {
    Key::Subnet(ours.subnet)
}

/// Our record, unless flannel's network is not there, is none that we can be on, or another host has of our subnet.
pub(in super::super) fn wanted(says: &Says, ours: &Flannel, known: &Known) -> BTreeMap<Key, Record> {
    let IpAddr::V4(public_ip) = says.vtep else { return BTreeMap::new() };
    let key = own_key(ours);
    let is_ours = |record: &Record| matches!(record, Record::Lease(lease) if lease.public_ip == public_ip);
    let have_it = known.get(&key).is_some_and(|entry| is_ours(&entry.record));
    let free = || judge::overlapping(known, ours.subnet).all(|(_, entry)| is_ours(&entry.record));
    let fits = judge::network(known, ours).is_ok();
    if !fits || !(have_it || free()) {
        return BTreeMap::new();
    }
    let backend = Backend::Vxlan { vni: Some(ours.vni), mac: ours.mac };
    BTreeMap::from([(key, Record::Lease(Lease { public_ip, backend }))])
}
