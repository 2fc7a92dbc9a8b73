//! Conntrack in a memory file, which outlives the process: a new engine goes on with the connections of the one that died.
//!
//! ```text
//! word 0        1                  page ...
//! magic         start of an image  image: layout, connections, mappings, permits, others
//! ```
//!
//! The entries of all tables lie in an image, as [`switch::table`] has them. Whoever begins reads what the image says,
//! makes tables in another part of the file, fills them, and then writes one word: where the image is. Killed before
//! that, its successor finds the image as it was.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;
use rustix::io::Errno;
use switch::sys::shared::{self, Shared};
use switch::table::{Handle, MAX_CAPACITY, New, Outcome, Table, TableError};

use super::external::{Class, Use};
use super::{Conntrack, Limits, MAPPING, Mapping, NONE, PLACE, STATIC, Tables, WORDS};

/// The first word of a file; the last byte is the version of all that is behind it.
const MAGIC: u64 = u64::from_be_bytes(*b"vswconn\x01");
/// Words in a page.
const PAGE: usize = 512;
/// Words of an image before its tables.
const HEAD: usize = 64;

/// Why there is no conntrack in a memory file.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// No memory for a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The file cannot be used.
    #[error("the memory file of connections: {0}")]
    File(#[from] Errno),
}

/// How many entries each table of an image has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) connections: usize,
    pub(super) mappings: usize,
    pub(super) others: usize,
}

/// Where they are, words.
struct Places {
    connections: usize,
    mappings: [[usize; 2]; Class::ALL.len()],
    permits: usize,
    others: usize,
    end: usize,
}

impl Layout {
    pub(super) fn of(limits: &Limits, external: usize) -> Self {
        let connections = (limits.connections as usize).clamp(1, MAX_CAPACITY);
        let mappings = (limits.mappings.clamp(1, 64_000) as usize).saturating_mul(external);
        Self { connections, mappings, others: (connections / 16).max(256) }
    }

    /// `None`: more than there can be.
    fn places(&self, from: usize) -> Option<Places> {
        let mut at = from.checked_add(HEAD)?;
        let mut next = |words: Option<usize>| {
            let place = at;
            at = at.checked_add(words?.checked_next_multiple_of(8)?)?;
            Some(place)
        };
        let connections = next(Table::<5, WORDS>::words(self.connections))?;
        let mut mappings = [[0; 2]; Class::ALL.len()];
        for place in mappings.iter_mut().flatten() {
            *place = next(Table::<3, 2>::words(self.mappings))?;
        }
        let permits = next(Table::<3, 0>::words(self.connections))?;
        let others = next(Table::<3, 1>::words(self.others))?;
        Some(Places { connections, mappings, permits, others, end: at.checked_next_multiple_of(PAGE)? })
    }

    fn read(memory: &Shared, from: usize) -> Option<Self> {
        let word = |at: usize| {
            let word = memory.words().get(from.checked_add(at)?)?.load(Ordering::Acquire);
            usize::try_from(word).ok().filter(|entries| (1..=MAX_CAPACITY).contains(entries))
        };
        Some(Self { connections: word(0)?, mappings: word(1)?, others: word(2)? })
    }

    fn write(&self, memory: &Shared, from: usize) -> Option<()> {
        for (at, entries) in [self.connections, self.mappings, self.others].into_iter().enumerate() {
            memory.words().get(from.checked_add(at)?)?.store(entries as u64, Ordering::Release);
        }
        Some(())
    }
}

impl Conntrack {
    /// As [`Conntrack::new`], in a memory file ([`shared::memory`]), with the connections that were in it. Their
    /// containers and rules may be gone: [`Conntrack::reconcile`] comes next.
    ///
    /// # Errors
    /// See [`KeptError`].
    ///
    /// # Syscalls
    /// Those of [`switch::sys::shared`].
    pub fn kept(limits: &Limits, external: usize, owners: usize, file: &OwnedFd) -> Result<Self, KeptError> {
        let external = external.clamp(1, super::MAX_EXTERNAL);
        let layout = Layout::of(limits, external);
        let refused = KeptError::File(Errno::NOMEM);
        let before = before(file)?;
        // In front of what is there, if there is room, or behind it.
        let first = PAGE;
        let end_of = |from: usize| layout.places(from).map(|places| places.end);
        let from = match before {
            Some((start, ..)) if end_of(first).is_some_and(|end| end <= start) => first,
            Some((_, end, _)) => end,
            None => first,
        };
        let Some(places) = layout.places(from) else { return Err(refused) };
        let bytes = |words: usize| (words as u64).saturating_mul(8);
        shared::grow(file, bytes(places.end))?;
        shared::clear(file, bytes(from), bytes(places.end.saturating_sub(from)))?;
        let last = before.map_or(places.end, |(_, end, _)| end.max(places.end));
        let memory = Arc::new(Shared::map(file, last)?);
        let tables = tables(&memory, &layout, &places, owners)?;
        let conntrack = Self::over(tables, limits, external);
        if let Some((start, _, old)) = before {
            conntrack.take_over(&memory, &old, start);
        }
        layout.write(&memory, from).ok_or(refused)?;
        // The image is whole: from here on it is the one.
        if let [magic, image, ..] = memory.words() {
            image.store(from as u64, Ordering::Release);
            magic.store(MAGIC, Ordering::Release);
        }
        if let Some((start, end, _)) = before {
            // What cannot be given back stays where nobody looks.
            let _ = shared::clear(file, bytes(start), bytes(end.saturating_sub(start)));
        }
        Ok(conntrack)
    }

    /// Everything that another conntrack left.
    fn take_over(&self, memory: &Arc<Shared>, old: &Layout, start: usize) {
        let Some(places) = old.places(start) else { return };
        let mappings = self.take_mappings(memory, old, &places);
        let mut connections = Names::default();
        for record in Table::<5, WORDS>::left_in(memory, places.connections, old.connections) {
            let (proto, inside, _) = super::ends(&record.key);
            let mut value = record.value;
            if let Some(class) = Class::of(proto).filter(|_| value[MAPPING] != NONE) {
                let name = super::name(class, inside.end.address, value[MAPPING]);
                let Some(at) = mappings.get(&name) else { continue };
                value[MAPPING] = at.to_u64();
            }
            let new = New { key: record.key, value, owner: record.owner, pinned: false, seen: record.seen };
            if let Outcome::New(at) = self.connections.insert(&new).outcome {
                connections.insert(record.at.to_u64(), at);
            }
        }
        for record in Table::<3, 0>::left_in(memory, places.permits, old.connections) {
            let [mapping, high, low] = record.key;
            if let Some(at) = mappings.get(&mapping) {
                let key = [super::renamed(mapping, *at), high, low];
                let new = New { key, value: [], owner: record.owner, pinned: false, seen: record.seen };
                self.permits.insert(&new);
            }
        }
        for record in Table::<3, 1>::left_in(memory, places.others, old.others) {
            if let Some(at) = connections.get(&record.value[0]) {
                let value = [at.to_u64()];
                let (key, owner, seen) = (record.key, record.owner, record.seen);
                self.others.insert(&New { key, value, owner, pinned: false, seen });
            }
        }
    }

    /// The mappings of another, each with its l4 port; and which is which now.
    fn take_mappings(&self, memory: &Arc<Shared>, old: &Layout, places: &Places) -> Names {
        let mut names = Names::default();
        for ((class, ours), places) in Class::ALL.into_iter().zip(&self.mappings).zip(places.mappings) {
            for (table, place) in ours.iter().zip(places) {
                for record in Table::<3, 2>::left_in(memory, place, old.mappings) {
                    if let Some(at) = self.take_mapping(class, table, &record) {
                        let inside = super::inside_of(&record);
                        names.insert(super::name(class, inside.end.address, record.at.to_u64()), at);
                    }
                }
            }
        }
        names
    }

    fn take_mapping(&self, class: Class, table: &Table<3, 2>, record: &Mapping) -> Option<Handle> {
        let place = record.value[PLACE];
        let (index, port) = ((place >> 8) as u8, (place >> 48) as u16);
        let ports = self.external.get(usize::from(index))?;
        let fixed = place & STATIC != 0;
        // A process that was killed may have left two of one l4 port, of which one was being removed.
        if !fixed && ports.of(class, port) != Use::Free {
            return None;
        }
        let value = [place, 0];
        let new = New { key: record.key, value, owner: record.owner, pinned: false, seen: record.seen };
        let Outcome::New(at) = table.insert(&new).outcome else { return None };
        if !fixed {
            ports.settle(class, port, at);
        }
        Some(at)
    }
}

/// What an entry was called, by its table, and what it is called now.
type Names = HashMap<u64, Handle, RandomState>;

/// The image that is in a file: where it begins and ends, and how it is laid out. `None`: there is none, or none that
/// this version reads.
fn before(file: &OwnedFd) -> Result<Option<(usize, usize, Layout)>, Errno> {
    let words = usize::try_from(shared::size(file)? / 8).unwrap_or(0);
    if words < PAGE {
        return Ok(None);
    }
    let memory = Shared::map(file, words)?;
    let [magic, image, ..] = memory.words() else { return Ok(None) };
    if magic.load(Ordering::Acquire) != MAGIC {
        return Ok(None);
    }
    let start = usize::try_from(image.load(Ordering::Acquire)).unwrap_or(0);
    let layout = Some(start).filter(|start| *start >= PAGE).and_then(|start| Layout::read(&memory, start));
    let end = layout.and_then(|layout| layout.places(start)).map(|places| places.end);
    Ok(layout.zip(end).filter(|(_, end)| *end <= words).map(|(layout, end)| (start, end, layout)))
}

/// New tables there.
fn tables(
    memory: &Arc<Shared>,
    layout: &Layout,
    places: &Places,
    owners: usize,
) -> Result<Tables, TableError> {
    let both = |[v4, v6]: [usize; 2]| {
        let table = |at| Table::on(memory, at, layout.mappings, owners);
        Ok::<_, TableError>([table(v4)?, table(v6)?])
    };
    let [tcp, udp, icmp, sctp] = places.mappings;
    Ok(Tables {
        connections: Table::on(memory, places.connections, layout.connections, owners)?,
        mappings: [both(tcp)?, both(udp)?, both(icmp)?, both(sctp)?],
        permits: Table::on(memory, places.permits, layout.connections, owners)?,
        others: Table::on(memory, places.others, layout.others, owners)?,
    })
}
