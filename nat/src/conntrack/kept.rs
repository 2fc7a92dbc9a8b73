//! Conntrack in a memory file, which outlives the process: a new engine goes on with the connections of the one that died.
//!
//! ```text
//! word 0        1                  page ...
//! magic         start of an image  image: layout, who has which port, connections, mappings, permits, others
//! ```
//!
//! The entries of all tables lie in an image, as [`switch::table`] has them. Whoever begins makes tables in another part
//! of the file, fills them with what the image says ([`Conntrack::resume`]), and then writes one word: where the image
//! is. Killed before that, its successor finds the image as it was.
//!
//! Ports and zones are numbers that mean something in one process. So the image says who each port is, in a word that
//! means the same to all ([`Conntrack::name`]), and zones are those of the ports.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use rustix::io::Errno;
use switch::port::PortId;
use switch::sys::shared::{self, Shared};
use switch::table::{Handle, MAX_CAPACITY, New, Outcome, Table, TableError};

use super::external::{Class, Use};
use super::words::{MAPPING, Mapping, NONE, PLACE, WORDS, ends, inside_of, name, renamed};
use super::{Conntrack, Layout, Limits, Tables};

/// The first word of a file; the last byte is the version of all that is behind it.
const MAGIC: u64 = u64::from_be_bytes(*b"vswconn\x02");
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

/// Where they are, words.
struct Places {
    names: usize,
    connections: usize,
    mappings: [[usize; 2]; Class::ALL.len()],
    permits: usize,
    others: usize,
    end: usize,
}

/// What a conntrack in a memory file knows of it.
pub(super) struct Kept {
    memory: Arc<Shared>,
    file: OwnedFd,
    /// Its own image.
    from: usize,
    layout: Layout,
    /// The one before, which is not taken over yet.
    before: Mutex<Option<Before>>,
}

/// Where an image begins and ends, and how it is laid out.
#[derive(Clone, Copy)]
struct Before {
    start: usize,
    end: usize,
    layout: Layout,
}

impl Layout {
    /// `None`: more than there can be.
    fn places(&self, from: usize) -> Option<Places> {
        let mut at = from.checked_add(HEAD)?;
        let mut next = |words: Option<usize>| {
            let place = at;
            at = at.checked_add(words?.checked_next_multiple_of(8)?)?;
            Some(place)
        };
        let names = next(Some(self.owners))?;
        let connections = next(Table::<5, WORDS>::words(self.connections))?;
        let mut mappings = [[0; 2]; Class::ALL.len()];
        for place in mappings.iter_mut().flatten() {
            *place = next(Table::<3, 2>::words(self.mappings))?;
        }
        let permits = next(Table::<3, 0>::words(self.connections))?;
        let others = next(Table::<3, 1>::words(self.others))?;
        Some(Places {
            names,
            connections,
            mappings,
            permits,
            others,
            end: at.checked_next_multiple_of(PAGE)?,
        })
    }

    fn read(memory: &Shared, from: usize) -> Option<Self> {
        let word = |at: usize| {
            let word = memory.words().get(from.checked_add(at)?)?.load(Ordering::Acquire);
            usize::try_from(word).ok().filter(|entries| (1..=MAX_CAPACITY).contains(entries))
        };
        Some(Self { connections: word(0)?, mappings: word(1)?, others: word(2)?, owners: word(3)? })
    }

    fn write(&self, memory: &Shared, from: usize) -> Option<()> {
        for (at, entries) in
            [self.connections, self.mappings, self.others, self.owners].into_iter().enumerate()
        {
            memory.words().get(from.checked_add(at)?)?.store(entries as u64, Ordering::Release);
        }
        Some(())
    }
}

impl Conntrack {
    /// As [`Conntrack::new`], in a memory file ([`shared::memory`]). Nothing that was in it is lost before
    /// [`Conntrack::resume`], nor is anything of this one kept.
    ///
    /// # Errors
    /// See [`KeptError`].
    ///
    /// # Syscalls
    /// Those of [`switch::sys::shared`].
    pub fn kept(limits: &Limits, external: usize, owners: usize, file: OwnedFd) -> Result<Self, KeptError> {
        let external = external.clamp(1, super::MAX_EXTERNAL);
        let layout = Layout::of(limits, owners);
        let refused = KeptError::File(Errno::NOMEM);
        let before = before(&file)?;
        // In front of what is there, if there is room, or behind it.
        let end_of = |from: usize| layout.places(from).map(|places| places.end);
        let from = match before {
            Some(Before { start, .. }) if end_of(PAGE).is_some_and(|end| end <= start) => PAGE,
            Some(Before { end, .. }) => end,
            None => PAGE,
        };
        let Some(places) = layout.places(from) else { return Err(refused) };
        shared::grow(&file, bytes(places.end))?;
        shared::clear(&file, bytes(from), bytes(places.end.saturating_sub(from)))?;
        let end = before.map_or(places.end, |before| before.end.max(places.end));
        let memory = Arc::new(Shared::map(&file, end)?);
        let tables = tables(&memory, &layout, &places, owners)?;
        let kept = Kept { memory, file, from, layout, before: Mutex::new(before) };
        Ok(Self::over(tables, limits, (external, owners), Some(kept))?)
    }

    /// Who has a port, in a word that is the same in all processes and is not 0; 0: nobody. Before packets are tracked for
    /// it.
    pub fn name(&self, port: PortId, who: u64) {
        let Some(kept) = &self.kept else { return };
        let at = kept.layout.places(kept.from).map(|places| places.names);
        if let Some(word) = at.and_then(|at| kept.memory.words().get(at.checked_add(port.index())?))
            && port.index() < kept.layout.owners
        {
            word.store(who, Ordering::Release);
        }
    }

    /// Takes over the connections that another process left in the memory file, of those who are here still: `who` says
    /// which port and zone they have now. Their rules may be gone: [`Conntrack::reconcile`] comes next. Says how many
    /// there were; 0 also where this was done before.
    pub fn resume(&self, who: impl Fn(u64) -> Option<(PortId, u16)>) -> usize {
        let Some(kept) = &self.kept else { return 0 };
        let Ok(before) = kept.before.lock().map(|mut before| before.take()) else { return 0 };
        let done = before.as_ref().map_or(0, |before| self.take_over(&kept.memory, before, who));
        if kept.layout.write(&kept.memory, kept.from).is_some()
            && let [magic, image, ..] = kept.memory.words()
        {
            // It is whole: from here on it is the one.
            image.store(kept.from as u64, Ordering::Release);
            magic.store(MAGIC, Ordering::Release);
        }
        if let Some(Before { start, end, .. }) = before {
            // What cannot be given back stays where nobody looks.
            let _ = shared::clear(&kept.file, bytes(start), bytes(end.saturating_sub(start)));
        }
        done
    }

    /// Everything that another conntrack left.
    fn take_over(
        &self,
        memory: &Arc<Shared>,
        Before { start, layout: old, .. }: &Before,
        who: impl Fn(u64) -> Option<(PortId, u16)>,
    ) -> usize {
        let Some(places) = old.places(*start) else { return 0 };
        let names = memory.words().get(places.names..places.names.saturating_add(old.owners));
        let names: Vec<_> =
            names.into_iter().flatten().map(|word| who(word.load(Ordering::Acquire))).collect();
        let now = |owner: u16| names.get(usize::from(owner)).copied().flatten();
        let mappings = self.take_mappings(memory, old, &places, now);
        let mut connections = Names::default();
        for record in Table::<5, WORDS>::left_in(memory, places.connections, old.connections) {
            let (proto, inside, _) = ends(&record.key);
            let Some((owner, zone)) = now(record.owner) else { continue };
            let mut value = record.value;
            if let Some(class) = Class::of(proto).filter(|_| value[MAPPING] & NONE == 0) {
                let name = name(class, inside.end.address, value[MAPPING]);
                let Some(at) = mappings.get(&name) else { continue };
                value[MAPPING] = at.to_u64();
            }
            let [first, a, b, c, d] = record.key;
            let key = [in_zone(first, zone), a, b, c, d];
            let new = New { key, value, owner: owner.0, pinned: false, seen: record.seen };
            if let Outcome::New(at) = self.connections.insert(&new).outcome {
                connections.insert(record.at.to_u64(), at);
            }
        }
        for record in Table::<3, 0>::left_in(memory, places.permits, old.connections) {
            let [mapping, high, low] = record.key;
            if let Some((at, (owner, _))) = mappings.get(&mapping).zip(now(record.owner)) {
                let key = [renamed(mapping, *at), high, low];
                let new = New { key, value: [], owner: owner.0, pinned: false, seen: record.seen };
                self.permits.insert(&new);
            }
        }
        for record in Table::<3, 1>::left_in(memory, places.others, old.others) {
            if let Some((at, (owner, _))) = connections.get(&record.value[0]).zip(now(record.owner)) {
                let (key, value, seen) = (record.key, [at.to_u64()], record.seen);
                self.others.insert(&New { key, value, owner: owner.0, pinned: false, seen });
            }
        }
        connections.len()
    }

    /// The mappings of another, each with its l4 port; and which is which now.
    fn take_mappings(
        &self,
        memory: &Arc<Shared>,
        old: &Layout,
        places: &Places,
        now: impl Fn(u16) -> Option<(PortId, u16)>,
    ) -> Names {
        let mut names = Names::default();
        for ((class, ours), places) in Class::ALL.into_iter().zip(&self.mappings).zip(places.mappings) {
            for (table, place) in ours.iter().zip(places) {
                for record in Table::<3, 2>::left_in(memory, place, old.mappings) {
                    if let Some(owner) = now(record.owner)
                        && let Some(at) = self.take_mapping(class, table, &record, owner)
                    {
                        let inside = inside_of(&record);
                        names.insert(name(class, inside.end.address, record.at.to_u64()), at);
                    }
                }
            }
        }
        names
    }

    fn take_mapping(
        &self,
        class: Class,
        table: &Table<3, 2>,
        record: &Mapping,
        (owner, zone): (PortId, u16),
    ) -> Option<Handle> {
        let place = record.value[PLACE];
        let (index, port) = ((place >> 8) as u8, (place >> 48) as u16);
        let ports = self.external.get(usize::from(index))?;
        // A process that was killed may have left two of one l4 port, of which one was being removed.
        if ports.of(class, port) != Use::Free {
            return None;
        }
        let [first, high, low] = record.key;
        let key = [in_zone(first, zone), high, low];
        let new = New { key, value: [place, 0], owner: owner.0, pinned: false, seen: record.seen };
        let Outcome::New(at) = table.insert(&new).outcome else { return None };
        ports.settle(class, port, at);
        Some(at)
    }
}

/// The first word of a key, of another zone.
const fn in_zone(word: u64, zone: u16) -> u64 {
    word & u64::MAX >> 16 | (zone as u64) << 48
}

const fn bytes(words: usize) -> u64 {
    (words as u64).saturating_mul(8)
}

/// What an entry was called, by its table, and what it is called now.
type Names = HashMap<u64, Handle, RandomState>;

/// The image that is in a file. `None`: there is none, or none that this version reads.
fn before(file: &OwnedFd) -> Result<Option<Before>, Errno> {
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
    let before = layout.and_then(|layout| Some(Before { start, end: layout.places(start)?.end, layout }));
    Ok(before.filter(|before| before.end <= words))
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
