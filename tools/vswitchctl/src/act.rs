//! Commands that change the daemon.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use vswitchd::api::rows::{Done, NetworkDetail, NetworkRow, PortRow};
use vswitchd::api::{self, FdbAdd, FdbDel, FdbFlush, NetworkCreate};

use crate::cli::{Connect, Create, Fdb, Network};
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::output::{escape, print};
use crate::show;

/// Longest configuration the daemon takes, bytes.
const LONGEST: u64 = 1 << 20;

/// Nothing to send.
#[derive(serde::Serialize)]
struct Nothing {}

/// `fdb add`, `del` and `flush`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn fdb(client: &Client, as_json: bool, change: Fdb) -> Result<String, Failure> {
    let done: Done = match change {
        Fdb::Add { network, mac, container, interface, vlan } => {
            client.post("/v1/fdb", &FdbAdd { network, mac, container, interface, vlan })?
        }
        Fdb::Del { network, mac, vlan } => client.delete("/v1/fdb", &FdbDel { network, mac, vlan })?,
        Fdb::Flush { network, container, interface, vlan } => {
            let done = client.post("/v1/fdb/flush", &FdbFlush { network, container, interface, vlan })?;
            return show::either(as_json, &done, |done: &Done| match done.changed {
                1 => "1 entry forgotten\n".to_owned(),
                count => format!("{count} entries forgotten\n"),
            });
        }
    };
    show::either(as_json, &done, lines)
}

/// `network create`, `rm`, `ls`, `inspect`, `connect` and `disconnect`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn network(client: &Client, as_json: bool, change: Network) -> Result<String, Failure> {
    match change {
        Network::Create(create) => {
            let made: NetworkRow = client.post("/v1/networks", &create_body(create))?;
            show::either(as_json, &made, |made| format!("{}\n", escape(&made.name)))
        }
        Network::Rm { names } => {
            for name in names {
                let done: Done = client.delete(&format!("/v1/networks/{}", segment(&name)), &Nothing {})?;
                // At once: the next one may fail.
                print(&show::either(as_json, &done, |_| format!("{}\n", escape(&name)))?)?;
            }
            Ok(String::new())
        }
        Network::Ls { quiet } => {
            let rows: Vec<NetworkRow> = client.get("/v1/networks")?;
            show::either(as_json, &rows, |rows| {
                if quiet {
                    rows.iter().map(|row| format!("{}\n", escape(&row.name))).collect()
                } else {
                    show::networks(rows)
                }
            })
        }
        Network::Inspect { name } => {
            let detail: NetworkDetail = client.get(&format!("/v1/networks/{}", segment(&name)))?;
            show::either(as_json, &detail, show::network)
        }
        Network::Connect(connect) => {
            let resource = format!("/v1/networks/{}/connect", segment(&connect.network));
            let port: PortRow = client.post(&resource, &connect_body(connect))?;
            show::either(as_json, &port, made_port)
        }
        Network::Disconnect { network, container, interface } => {
            let resource = format!("/v1/networks/{}/disconnect", segment(&network));
            let done: Done = client.post(&resource, &api::Disconnect { container, interface })?;
            show::either(as_json, &done, lines)
        }
    }
}

fn create_body(create: Create) -> NetworkCreate {
    NetworkCreate {
        gateway: None,
        gateway6: None,
        gateway_mac: None,
        name: create.name,
        subnet: create.subnet,
        subnet6: create.subnet6,
        vlan: create.vlan,
        transparent: create.transparent.then_some(true),
        snooping: create.snooping.then_some(true),
        vni: create.vni,
        mtu: create.mtu,
        icc: create.icc,
        nat: create.nat,
        nat6: create.nat6,
        internal: create.internal.then_some(true),
        dhcp: create.dhcp.then_some(true),
        ageing: create.ageing,
        fdb_limit: create.fdb_limit,
        spoof: create.spoof,
        storm: create.storm,
    }
}

fn connect_body(connect: Connect) -> api::Connect {
    let Connect {
        network: _,
        container,
        netns,
        create,
        interface,
        ip,
        ip6,
        mac,
        aliases,
        vlan,
        trunk,
        isolated,
    } = connect;
    api::Connect { container, netns, create, interface, ip, ip6, mac, aliases, vlan, trunk, isolated }
}

/// What a user wants to know of a new interface: what it is called, and what it was given.
fn made_port(port: &PortRow) -> String {
    let mut line = format!("{} {} {} {}", port.iface, port.mac, show::addresses(port), port.state);
    if let Some(reason) = &port.reason {
        line.push_str(&format!(" ({reason})"));
    }
    format!("{}\n", escape(&line))
}

/// `reload`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn reload(client: &Client, as_json: bool) -> Result<String, Failure> {
    let done: Done = client.post("/v1/reload", &Nothing {})?;
    show::either(as_json, &done, difference)
}

/// `apply`.
///
/// # Errors
/// The file cannot be read; not reachable; the daemon said no.
pub fn apply(client: &Client, as_json: bool, file: &Path) -> Result<String, Failure> {
    let text = read(file)?;
    let name = file.to_string_lossy();
    let done: Done = client.post_text(&format!("/v1/apply?name={}", segment(&name)), text)?;
    show::either(as_json, &done, difference)
}

/// The configuration, as far as the daemon would take it: a 100 MB file is not read to the end.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let most = LONGEST.saturating_add(1);
    let source: io::Result<usize> = if path == Path::new("-") {
        io::stdin().take(most).read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut text))
    };
    match source {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= LONGEST) => Ok(text),
        Ok(_) => Err(Failure::FileTooLong { path: path.to_owned(), most: LONGEST }),
        Err(source) => Err(Failure::File { path: path.to_owned(), source }),
    }
}

pub fn lines(done: &Done) -> String {
    done.details.iter().map(|line| format!("{}\n", escape(line))).collect()
}

fn difference(done: &Done) -> String {
    if done.changed == 0 && done.details.is_empty() { "nothing changed\n".to_owned() } else { lines(done) }
}
