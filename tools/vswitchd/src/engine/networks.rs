//! The control plane's registry of networks: their ids and FDBs, which outlive a reload.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use router::neighbor::Neighbors;
use router::returns::Returns;
use switch::fdb::Fdb;
use switch::groups::Groups;
use switch::port::{NetworkId, PortId};
use switch::table::TableError;

use super::translate::Translator;
use crate::config::{Network, Outside};

/// Flows whose answers are let in, of all networks; about 80 bytes each, touched when used.
const RETURNS: usize = 1 << 17;

/// One network.
pub struct NetworkRecord {
    /// As configured.
    pub config: Network,
    /// Its FDB.
    pub fdb: Arc<Fdb>,
    /// Who listens to which group, where it snoops.
    pub groups: Option<Arc<Groups>>,
    /// Who its gateway knows there.
    pub neighbors: Arc<Neighbors>,
}

impl NetworkRecord {
    /// What a port listened to is forgotten.
    pub fn forget_groups(&self, port: PortId) {
        if let Some(groups) = &self.groups {
            groups.flush(port);
        }
    }
}

/// All networks, by id.
#[derive(Default)]
pub struct Networks {
    slots: Vec<Option<NetworkRecord>>,
    /// What may come back; made when a network asks for it.
    returns: Option<Arc<Returns>>,
    /// What an uplink that takes packets translates; made when there is one.
    translator: Option<Translator>,
    /// Where connections outlive this process.
    memory: Option<Arc<OwnedFd>>,
}

impl Networks {
    /// Makes the network what `config` says; what it has learned stays, as far as a table of a new size holds it.
    ///
    /// # Errors
    /// When there is no memory for its FDB; what was there stays.
    pub fn put(&mut self, config: &Network) -> Result<(), TableError> {
        if let Some(id) = self.find(&config.name)
            && let Some(record) = self.get_mut(id)
        {
            if record.config.fdb_limit != config.fdb_limit {
                let fdb = Fdb::new(config.fdb_limit as usize)?;
                record.fdb.copy_into(&fdb);
                record.fdb = Arc::new(fdb);
            }
            record.groups = groups(config, record.groups.take())?;
            record.config = config.clone();
            return Ok(());
        }
        let fdb = Arc::new(Fdb::new(config.fdb_limit as usize)?);
        // A neighbour has a MAC, and more of them than MACs may be remembered are of no use.
        let neighbors = Arc::new(Neighbors::new(config.fdb_limit as usize)?);
        let groups = groups(config, None)?;
        let record = NetworkRecord { config: config.clone(), fdb, groups, neighbors };
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(slot) => *slot = Some(record),
            None => self.slots.push(Some(record)),
        }
        Ok(())
    }

    /// What may come back by ways that may not be opened.
    pub fn returns(&self) -> Option<&Arc<Returns>> {
        self.returns.as_ref()
    }

    /// Makes room for what may come back.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn need_returns(&mut self) -> Result<(), TableError> {
        if self.returns.is_none() {
            self.returns = Some(Arc::new(Returns::new(RETURNS)?));
        }
        Ok(())
    }

    /// What an uplink that takes packets translates.
    pub fn translator(&self) -> Option<&Translator> {
        self.translator.as_ref()
    }

    /// With a memory file for what is to outlive this process.
    pub fn with_memory(memory: Option<Arc<OwnedFd>>) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Makes room for what is translated. Other limits take effect at the next start.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn need_translator(&mut self, outside: &Outside) -> Result<(), TableError> {
        if self.translator.is_none() {
            self.translator = Some(Translator::new(outside, self.memory.as_deref())?);
        }
        Ok(())
    }

    /// Forgets a network. The caller moved or removed its ports.
    pub fn remove(&mut self, name: &str) {
        if let Some(slot) = self.find(name).and_then(|id| self.slots.get_mut(id.index())) {
            *slot = None;
        }
    }

    /// The id of a name.
    pub fn find(&self, name: &str) -> Option<NetworkId> {
        self.all().find(|(_, record)| record.config.name == name).map(|(id, _)| id)
    }

    /// The record of an id.
    pub fn get(&self, id: NetworkId) -> Option<&NetworkRecord> {
        self.slots.get(id.index())?.as_ref()
    }

    fn get_mut(&mut self, id: NetworkId) -> Option<&mut NetworkRecord> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// The record of a name.
    pub fn named(&self, name: &str) -> Option<&NetworkRecord> {
        self.get(self.find(name)?)
    }

    /// The name of an id.
    pub fn name(&self, id: NetworkId) -> &str {
        self.get(id).map_or("", |record| record.config.name.as_str())
    }

    /// All networks, by id.
    pub fn all(&self) -> impl Iterator<Item = (NetworkId, &NetworkRecord)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((NetworkId(index as u16), slot.as_ref()?)))
    }

    /// How many ids are or were in use.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

/// Room for who listens to what: as many memberships as MACs. What was there stays, as far as it fits.
fn groups(config: &Network, before: Option<Arc<Groups>>) -> Result<Option<Arc<Groups>>, TableError> {
    let room = config.fdb_limit as usize;
    match before {
        _ if !config.snooping => Ok(None),
        Some(before) if before.capacity() == room => Ok(Some(before)),
        before => {
            let groups = Groups::new(room)?;
            if let Some(before) = before {
                before.copy_into(&groups);
            }
            Ok(Some(Arc::new(groups)))
        }
    }
}
