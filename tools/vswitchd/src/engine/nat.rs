//! `publish`, `unpublish` and `show connections` of the API.

use std::net::{IpAddr, SocketAddr};

use nat::conntrack::{ConnectionRow as Tracked, EndPoint};
use nat::sockets::{Connection, Query};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use switch::tick::Tick;
use tokio::sync::oneshot;

use super::changes::{done, send};
use super::control::Control;
use super::made::refused;
use super::records::{Outcome, Then, Unsettled};
use crate::api::rows::{ConnectionRow, Direction, NatRow, Transport};
use crate::api::{Answer, ApiError, ApiErrorKind, ConnectionFilter, Publishing, Reply};
use crate::config::Publish;
use crate::listing::Question;
use crate::translate::Translation;

impl Control {
    /// All of it or nothing: what the host refuses is taken back.
    pub(super) fn publish(&mut self, wanted: Publishing, reply: oneshot::Sender<Reply>) {
        let mut desired = self.desired.clone();
        let mut kept = Publishing { publish: Vec::new(), ..wanted };
        for publish in wanted.publish {
            match desired.publish(&kept.container, kept.interface.as_deref(), &publish) {
                // All on the interface that took the first.
                Ok(interface) => kept.interface = Some(interface),
                Err(problem) => return send(Some(reply), Err(refused(&problem))),
            }
            kept.publish.push(publish);
        }
        self.desired = desired;
        self.objects.kept.published.push(kept.clone());
        self.keep();
        self.bring_about();
        // They are asked for when that is published, before anybody looks whether they have settled.
        self.reconcile_published();
        self.unsettled.push(Unsettled { port: None, reply, then: Then::Published(kept) });
    }

    /// What became of it.
    pub(super) fn published_as(&mut self, wanted: &Publishing) -> Reply {
        let interface = wanted.interface.clone().unwrap_or_default();
        let key = |publish: &Publish| (wanted.container.clone(), interface.clone(), publish.clone());
        let refusal = wanted.publish.iter().find_map(|publish| self.published.refusal(&key(publish)));
        if let Some(refusal) = refusal.map(str::to_owned) {
            self.unpublish(wanted)?;
            return Err(ApiError::new(ApiErrorKind::Refused, refusal));
        }
        let is_its = |row: &NatRow| {
            let its = wanted.publish.iter().any(|publish| publish.to_string() == row.publish);
            row.container == wanted.container && row.iface == interface && its
        };
        Ok(Answer::Nat(self.nat_rows(&[]).into_iter().filter(is_its).collect()))
    }

    pub(super) fn unpublish(&mut self, gone: &Publishing) -> Reply {
        let Publishing { container, interface, publish } = gone;
        let mut desired = self.desired.clone();
        let mut back = false;
        for publish in publish {
            let name = desired.unpublish(container, interface.as_deref(), publish);
            let name = name.map_err(|problem| refused(&problem))?;
            let in_file = self.file.container(container).is_some_and(|known| {
                known.interfaces.iter().any(|i| i.name == name && i.publish.contains(publish))
            });
            back |= in_file;
            for kept in self.objects.kept.published.iter_mut().filter(|kept| kept.container == *container) {
                if kept.interface.as_deref() == Some(&name) {
                    kept.publish.retain(|there| there != publish);
                }
            }
        }
        self.objects.kept.published.retain(|kept| !kept.publish.is_empty());
        self.desired = desired;
        self.keep();
        self.bring_about();
        let until = if back { " until the file is read again: it is still there" } else { "" };
        let entries: Vec<String> = publish.iter().map(ToString::to_string).collect();
        let text = format!("{container}: {} not published any more{until}", entries.join(", "));
        Ok(done(publish.len() as u64, text))
    }

    /// Clients of what is translated are counted on another thread: it goes through all connections.
    pub(super) fn nat(&mut self, reply: oneshot::Sender<Reply>) {
        let translation = self.snapshot.load().tables.nat.clone();
        self.jobs.spawn_blocking(move || {
            let count = |nat: Translation| nat.conntrack.clients(&nat.rules, Tick::now());
            Outcome::Clients { clients: translation.map(count).unwrap_or_default(), reply }
        });
    }

    /// Asks the workers, which answer when they have the time.
    pub(super) fn connections(&mut self, filter: &ConnectionFilter, reply: oneshot::Sender<Reply>) {
        if let Some(container) = &filter.container
            && self.desired.container(container).is_none()
        {
            let error = ApiError::new(ApiErrorKind::NotFound, format!("no container {container}"));
            return send(Some(reply), Err(error));
        }
        if !self.uplink.runs() {
            return send(Some(reply), Ok(Answer::Connections(Vec::new())));
        }
        let query = Query {
            proto: filter.protocol.map(|protocol| match protocol {
                Transport::Tcp => PROTO_TCP,
                Transport::Udp => PROTO_UDP,
                Transport::Icmp => PROTO_ICMP,
                Transport::Icmp6 => PROTO_ICMPV6,
                Transport::Sctp => PROTO_SCTP,
                // No socket speaks it.
                Transport::Other => 0,
            }),
            l4_port: filter.port,
        };
        let translation = self.snapshot.load().tables.nat.clone();
        let (protocol, l4_port) = (filter.protocol, filter.port);
        let mut answers = Vec::new();
        for window in self.uplink.windows() {
            let (sender, answer) = oneshot::channel();
            let rows = Vec::with_capacity(self.uplink.room());
            if window.ask(Question { query, rows, reply: sender }).is_err() {
                let error = ApiError::new(ApiErrorKind::Unavailable, "too many questions at once; try again");
                return send(Some(reply), Err(error));
            }
            answers.push(answer);
        }
        self.workers.wake();
        let container = filter.container.clone();
        self.jobs.spawn(async move {
            let mut rows = Vec::new();
            for answer in answers {
                match answer.await {
                    Ok(mut some) => rows.append(&mut some),
                    Err(_) => return Outcome::Nothing,
                }
            }
            let tracked = tokio::task::spawn_blocking(move || {
                translation.map(|nat| tracked(&nat, protocol, l4_port)).unwrap_or_default()
            });
            let tracked = tracked.await.unwrap_or_default();
            Outcome::Connections { rows, tracked, container, reply }
        });
    }

    /// The worker's answer and what is translated, with names.
    pub(super) fn connection_rows(
        &self,
        rows: &[Connection],
        tracked: &[Tracked],
        container: Option<&str>,
    ) -> Vec<ConnectionRow> {
        let mut rows: Vec<_> = rows.iter().filter_map(|connection| self.connection_row(connection)).collect();
        rows.extend(tracked.iter().map(|connection| self.tracked_row(connection)));
        rows.retain(|row| container.is_none_or(|container| container == row.container));
        rows.sort_by(|a, b| {
            let key = |row: &ConnectionRow| (row.protocol as u8, row.source, row.destination);
            (&a.container, key(a)).cmp(&(&b.container, key(b)))
        });
        rows
    }

    fn connection_row(&self, connection: &Connection) -> Option<ConnectionRow> {
        let port = self.ports.get(connection.port);
        let key = &connection.key;
        let protocol = transport(key.proto);
        let echo = matches!(protocol, Transport::Icmp | Transport::Icmp6);
        let own = SocketAddr::new(key.src.to_canonical(), key.sport);
        // Type and code are no l4 port.
        let other = SocketAddr::new(key.dst.to_canonical(), if echo { 0 } else { key.dport });
        let plain = |address: SocketAddr| match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
            IpAddr::V6(_) => address,
        };
        let (source, destination, direction) = match connection.inbound {
            true => (other, own, Direction::In),
            false => (own, other, Direction::Out),
        };
        Some(ConnectionRow {
            protocol,
            direction,
            container: port.map_or_else(String::new, |port| port.container().into()),
            iface: port.map_or_else(String::new, |port| port.ifname().into()),
            source,
            destination,
            state: connection.state.into(),
            idle: connection.idle / 1000,
            bytes_out: connection.bytes.0,
            bytes_in: connection.bytes.1,
            local: connection.local.map(plain),
            peer: connection.peer.map(plain),
        })
    }

    fn tracked_row(&self, connection: &Tracked) -> ConnectionRow {
        let port = self.ports.get(connection.owner);
        let (own, other) = (plain(connection.inside.end), plain(connection.remote));
        let (source, destination, direction) = match connection.inbound {
            true => (other, own, Direction::In),
            false => (own, other, Direction::Out),
        };
        ConnectionRow {
            protocol: transport(connection.proto),
            direction,
            container: port.map_or_else(String::new, |port| port.container().into()),
            iface: port.map_or_else(String::new, |port| port.ifname().into()),
            source,
            destination,
            state: connection.state.into(),
            idle: u64::from(connection.idle),
            bytes_out: connection.bytes.0,
            bytes_in: connection.bytes.1,
            local: Some(plain(connection.external)),
            peer: Some(other),
        }
    }
}

const fn transport(proto: u8) -> Transport {
    match proto {
        PROTO_TCP => Transport::Tcp,
        PROTO_UDP => Transport::Udp,
        PROTO_ICMP => Transport::Icmp,
        PROTO_ICMPV6 => Transport::Icmp6,
        PROTO_SCTP => Transport::Sctp,
        _ => Transport::Other,
    }
}

/// IPv4 as IPv4.
fn plain(end: EndPoint) -> SocketAddr {
    SocketAddr::new(end.address.to_canonical(), end.port)
}

/// What is translated now, of one protocol or of all, with an l4 port at either end or outside.
fn tracked(nat: &Translation, protocol: Option<Transport>, l4_port: Option<u16>) -> Vec<Tracked> {
    let fits = |row: &Tracked| {
        let ports = [row.inside.end.port, row.remote.port, row.external.port];
        protocol.is_none_or(|protocol| protocol == transport(row.proto))
            && l4_port.is_none_or(|port| ports.contains(&port))
    };
    nat.conntrack.connections(&nat.rules, Tick::now()).filter(fits).collect()
}
