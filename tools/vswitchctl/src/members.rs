//! Whose rows are wanted: what filters name must be there, and who is on which network.

use vswitchd::api::rows::{ContainerRow, NetworkRow, PortRow};

use crate::cli::{Filter, Show};
use crate::client::Client;
use crate::failure::Failure;

/// Whether there is what is asked for: an empty table would say that all is quiet.
///
/// # Errors
/// It is not there; not reachable, or the daemon said no.
pub fn exists(client: &Client, what: &Show) -> Result<(), Failure> {
    let (network, container) = what.only();
    if let Some(wanted) = network {
        let rows: Vec<NetworkRow> = client.get("/v1/networks")?;
        named("network", wanted, rows.iter().map(|row| row.name.as_str()))?;
    }
    if let Some(wanted) = container {
        let rows: Vec<ContainerRow> = client.get("/v1/containers")?;
        named("container", wanted, rows.iter().map(|row| row.name.as_str()))?;
    }
    Ok(())
}

fn named<'n>(
    what: &'static str,
    wanted: &str,
    mut names: impl Iterator<Item = &'n str>,
) -> Result<(), Failure> {
    if names.any(|name| name == wanted) {
        return Ok(());
    }
    Err(Failure::Unknown { what, name: wanted.to_owned() })
}

/// The ports that are wanted.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn ports_of(client: &Client, filter: &Filter) -> Result<Vec<PortRow>, Failure> {
    let mut rows: Vec<PortRow> = client.get("/v1/ports")?;
    rows.retain(|row| filter.wants(&row.network, &row.container));
    Ok(rows)
}

/// Who is on which network, of those that are wanted: for tables whose rows do not say both.
pub struct Members<'a> {
    filter: &'a Filter,
    ports: Vec<PortRow>,
}

impl<'a> Members<'a> {
    /// # Errors
    /// Not reachable, or the daemon said no.
    pub fn of(client: &Client, filter: &'a Filter) -> Result<Self, Failure> {
        // Without a filter nobody is asked about.
        let ports = if filter.is_given() { ports_of(client, filter)? } else { Vec::new() };
        Ok(Self { filter, ports })
    }

    /// A network that is wanted, or that the wanted container is on.
    pub fn network(&self, name: &str) -> bool {
        match self.filter.container {
            Some(_) => self.ports.iter().any(|row| row.network == name),
            None => self.filter.network.as_deref().is_none_or(|wanted| wanted == name),
        }
    }

    /// A container that is wanted, or that is on the wanted network.
    pub fn container(&self, name: &str) -> bool {
        match self.filter.network {
            Some(_) => self.ports.iter().any(|row| row.container == name),
            None => self.filter.container.as_deref().is_none_or(|wanted| wanted == name),
        }
    }
}
