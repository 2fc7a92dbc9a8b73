//! What the API changes. Each change is made on a copy of what is wanted, checked whole, and only then brought about.

use switch::port::PortId;
use switch::tick::Tick;
use tokio::sync::oneshot;

use super::control::Control;
use super::describe::describe;
use super::made::{add_network, connect_all, connection, refused};
use super::objects::Connected;
use super::ports::State;
use super::records::{Outcome, Then, Unsettled};
use crate::api::rows::Done;
use crate::api::{
    Answer, ApiError, ApiErrorKind, Call, Connect, Disconnect, FdbAdd, FdbDel, FdbFlush, NetworkCreate,
    Reply, Request,
};
use crate::config::{self, ConfigErrors, Context, Paths, ProblemKind};
use crate::wire::{Answer as KeeperAnswer, Op, Refusal};

impl Control {
    /// Answers a call, now or when its ports have settled.
    pub(super) fn answer(&mut self, call: Call) {
        let Call { request, reply } = call;
        let answer = match request {
            Request::Fdb => Ok(Answer::Fdb(self.fdb_rows())),
            Request::Routes => Ok(Answer::Routes(self.route_rows())),
            Request::Neighbors => Ok(Answer::Neighbors(self.neighbor_rows())),
            Request::Groups => Ok(Answer::Groups(self.group_rows())),
            Request::Vxlan => Ok(Answer::Vxlan(self.vtep_rows())),
            Request::Cluster => Ok(Answer::Cluster(self.cluster_detail())),
            Request::FdbAdd(add) => self.fdb_add(add),
            Request::FdbDel(del) => self.fdb_del(&del),
            Request::FdbFlush(which) => self.fdb_flush(&which),
            Request::Ports => Ok(Answer::Ports(self.port_rows())),
            Request::Networks => Ok(Answer::Networks(self.network_rows())),
            Request::Network { name } => match self.networks.named(&name) {
                Some(record) => Ok(Answer::Network(self.network_detail(record))),
                None => Err(no_network(&name)),
            },
            Request::NetworkCreate(create) => self.network_create(create),
            Request::NetworkRemove { name } => self.network_remove(&name),
            Request::Connect { network, interface } => return self.connect(&network, interface, reply),
            Request::Disconnect { network, interface } => self.disconnect(&network, &interface),
            Request::Containers => Ok(Answer::Containers(self.container_rows())),
            Request::Target { container } => return self.target(&container, reply),
            Request::Drops { ports } => Ok(Answer::Drops(self.drop_rows(ports))),
            Request::Nat => return self.nat(reply),
            Request::Connections(filter) => return self.connections(&filter, reply),
            Request::Publish(wanted) => return self.publish(wanted, reply),
            Request::Unpublish(gone) => self.unpublish(&gone),
            Request::Stats => Ok(Answer::Stats(self.stats())),
            Request::Status => Ok(Answer::Status(Box::new(self.status()))),
            Request::Config => serde_json::to_value(&self.desired)
                .map(Answer::Config)
                .map_err(|error| ApiError::new(ApiErrorKind::Unavailable, error.to_string())),
            Request::Trace(ask) => self.trace(&ask),
            Request::Reload => return self.read_file(Some(reply)),
            Request::Apply { name, text } => return self.apply(&name, text.as_bytes(), Some(reply)),
        };
        // The caller may have given up.
        let _ = reply.send(answer);
    }

    /// Asks the keeper for the file's text; goes on in [`Control::file_read`].
    pub(super) fn read_file(&mut self, reply: Option<oneshot::Sender<Reply>>) {
        self.ask(Op::ReadConfig, move |result| {
            let text = result.and_then(|(answer, mut fds)| match (answer, fds.pop()) {
                (KeeperAnswer::Config, Some(fd)) => {
                    super::text_of(fd).map_err(|error| unreadable(error.to_string()))
                }
                _ => Err(unreadable("the keeper sent no text".into())),
            });
            Outcome::FileRead { result: text, reply }
        });
    }

    pub(super) fn file_read(
        &mut self,
        result: Result<Vec<u8>, Refusal>,
        reply: Option<oneshot::Sender<Reply>>,
    ) {
        match result {
            Ok(text) => {
                let name = self.begin.config_name.clone();
                self.apply(&name, &text, reply);
            }
            Err(refusal) => {
                tracing::error!(%refusal, "not reloaded");
                send(reply, Err(ApiError::new(ApiErrorKind::Invalid, refusal.to_string())));
            }
        }
    }

    /// Makes `text` the file's part of what is wanted. Nothing changes unless all of it is valid, together with what
    /// was made through the API.
    fn apply(&mut self, name: &str, text: &[u8], reply: Option<oneshot::Sender<Reply>>) {
        let paths = Paths { control: self.begin.control.clone(), state: self.begin.state.clone() };
        // An address that turned out to be another host's is not kept.
        let previous = self.leases.memory.without_elsewhere(&self.desired);
        let context = Context { paths, previous: Some(&previous), memory: Some(&self.leases.memory) };
        let file = match config::parse_with(name, text, &context) {
            Ok(file) => file,
            Err(errors) => {
                tracing::error!("not reloaded:\n{errors}");
                return send(reply, Err(invalid(&errors)));
            }
        };
        let mut wanted = file.clone();
        let mut conflicts = connect_all(&mut wanted, &self.objects.kept, &self.leases.memory);
        // What contradicted the file before is no reason to refuse another file.
        conflicts.retain(|conflict| !self.left_out.contains(conflict));
        if !conflicts.is_empty() {
            tracing::error!(?conflicts, "not reloaded");
            let message = "the file contradicts what was made through the API; nothing was changed";
            return send(reply, Err(ApiError::faults(message, conflicts)));
        }
        self.refit_underlay(&mut wanted);
        let details = describe(&config::diff(&self.desired, &wanted));
        tracing::info!(changes = details.len(), "reloaded");
        (self.file, self.desired) = (file, wanted);
        let (keeper, text) = (std::sync::Arc::clone(&self.keeper), text.to_vec());
        self.jobs.spawn(async move {
            if let Err(error) = keeper.keep(&text).await {
                tracing::error!(%error, "an engine started anew would begin with the configuration of before");
            }
            Outcome::Nothing
        });
        let failed = self.ports.ids(|port| matches!(port.state, State::Failed { .. }));
        self.published.retry_failed();
        self.bring_about();
        self.retry_failed();
        self.rebalance();
        let Some(reply) = reply else { return };
        let done = Done { changed: details.len() as u64, details };
        self.unsettled.push(Unsettled { port: None, reply, then: Then::Reloaded { done, failed } });
    }

    /// At the start: objects made through the API join what the file wants. One that contradicts the file is left out
    /// and stays in the state folder.
    pub(super) fn merge_objects(&mut self) {
        let mut wanted = self.file.clone();
        self.left_out = connect_all(&mut wanted, &self.objects.kept, &self.leases.memory);
        for conflict in &self.left_out {
            tracing::error!(conflict, "an object made through the API contradicts the file and is left out");
        }
        self.refit_underlay(&mut wanted);
        self.desired = wanted;
    }

    fn network_create(&mut self, create: NetworkCreate) -> Reply {
        let mut wanted = self.desired.clone();
        add_network(&mut wanted, &create)?;
        self.refit_underlay(&mut wanted);
        self.desired = wanted;
        let name = create.name.clone();
        self.objects.kept.networks.push(create);
        self.keep();
        self.cluster_has_made(&name);
        self.bring_about();
        let record = self.networks.named(&name).ok_or_else(|| no_network(&name))?;
        Ok(Answer::NetworkRow(self.network_row(record)))
    }

    fn network_remove(&mut self, name: &str) -> Reply {
        if self.file.network(name).is_some() {
            let text = format!("network {name} is in {}: remove it there and reload", self.begin.config_name);
            return Err(ApiError::new(ApiErrorKind::Conflict, text));
        }
        let kept = self.objects.kept.networks.iter().any(|network| network.name == name);
        self.remove_from_cluster(name).map_err(|text| ApiError::new(ApiErrorKind::Conflict, text))?;
        match self.desired.remove_network(name) {
            // One that contradicted the file and was left out can be removed all the same.
            Err(problem) if problem.kind() == ProblemKind::NotFound && kept => {}
            Ok(_) => {}
            Err(problem) => {
                self.stays_in_cluster(name);
                return Err(refused(&problem));
            }
        }
        self.forget_network(name);
        self.bring_about();
        Ok(done(1, format!("network {name} removed")))
    }

    /// What was made of a network at run time is not kept any more.
    pub(super) fn forget_network(&mut self, name: &str) {
        self.objects.kept.networks.retain(|network| network.name != name);
        self.objects.kept.fdb.retain(|entry| entry.network != name);
        self.keep();
    }

    pub(super) fn connect(&mut self, network: &str, interface: Connect, reply: oneshot::Sender<Reply>) {
        let (container, options) = connection(&interface);
        let made = match self.desired.connect_again(network, &container, &options, &self.leases.memory) {
            Ok(made) => made,
            Err(problem) => return send(Some(reply), Err(refused(&problem))),
        };
        // What left its address open may have another, if a host of the cluster was faster.
        let open = interface.ip.is_none() && interface.ip6.is_none();
        let again = open.then(|| Box::new(interface.clone()));
        let kept = Connect {
            interface: Some(made.name.clone()),
            // What comes by DHCP is remembered elsewhere: kept here it would be named from then on.
            ip: made.ip.filter(|_| !made.dhcp).map(|ip| ip.addr()),
            ip6: made.ip6.map(|ip| ip.addr()),
            mac: Some(made.mac),
            ..interface
        };
        self.objects.kept.interfaces.push(Connected { network: network.into(), interface: kept, open });
        self.keep();
        self.bring_about();
        match self.ports.find(&container.name, &made.name) {
            Some(port) => {
                let then = Then::Connected { network: network.into(), port, again };
                self.unsettled.push(Unsettled { port: Some(port), reply, then });
            }
            // An interface of the same name is still leaving: it is attached when that one is gone.
            None => {
                let (container, interface) = (container.name, made.name);
                let then = Then::Follows { network: network.into(), container, interface };
                self.unsettled.push(Unsettled { port: None, reply, then });
            }
        }
    }

    /// What became of a connection that had to wait until an interface of its name was gone.
    pub(super) fn followed(&mut self, network: &str, container: &str, interface: &str) -> Reply {
        match self.ports.find(container, interface) {
            Some(port) => self.connected(network, port),
            None => Err(ApiError::new(ApiErrorKind::Conflict, "the interface was removed meanwhile")),
        }
    }

    /// What became of a connection: its row, or why the host refused it; what is refused is taken back.
    pub(super) fn connected(&mut self, network: &str, port: PortId) -> Reply {
        let Some(record) = self.ports.get(port) else {
            return Err(ApiError::new(ApiErrorKind::Conflict, "the interface was removed meanwhile"));
        };
        let State::Failed { reason } = &record.state else {
            return Ok(Answer::Port(self.port_row(port, record)));
        };
        let error = ApiError::new(ApiErrorKind::Refused, reason.clone());
        let interface =
            Disconnect { container: record.container().into(), interface: Some(record.ifname().into()) };
        self.disconnect(network, &interface)?;
        Err(error)
    }

    pub(super) fn disconnect(&mut self, network: &str, interface: &Disconnect) -> Reply {
        let Disconnect { container, interface } = interface;
        let is_it = |kept: &Connected| {
            let name =
                interface.as_deref().is_none_or(|name| kept.interface.interface.as_deref() == Some(name));
            kept.network == network && kept.interface.container == *container && name
        };
        let kept = self.objects.kept.interfaces.iter().any(is_it);
        let gone = match self.desired.disconnect(network, container, interface.as_deref()) {
            Ok(gone) => gone.name,
            // One that contradicted the file and was left out can be removed all the same.
            Err(problem) if problem.kind() == ProblemKind::NotFound && kept => {
                self.objects.kept.interfaces.retain(|kept| !is_it(kept));
                self.keep();
                return Ok(done(1, format!("{container} will not be connected to {network} any more")));
            }
            Err(problem) => return Err(refused(&problem)),
        };
        let objects = &mut self.objects.kept;
        objects.interfaces.retain(|kept| {
            kept.interface.container != *container || kept.interface.interface.as_deref() != Some(&gone)
        });
        objects
            .published
            .retain(|entry| entry.container != *container || entry.interface.as_deref() != Some(&gone));
        objects.fdb.retain(|entry| {
            entry.container != *container || entry.interface.as_deref().is_some_and(|name| name != gone)
        });
        let in_file = self.file.container(container);
        // A container that the API brought goes with its last interface; the file's stay.
        if in_file.is_none()
            && self.desired.container(container).is_some_and(|known| known.interfaces.is_empty())
        {
            self.desired.remove_container(container).map_err(|problem| refused(&problem))?;
        }
        let back =
            in_file.is_some_and(|known| known.interfaces.iter().any(|interface| interface.name == gone));
        self.keep();
        self.bring_about();
        let until = if back { " until the file is read again: it is still there" } else { "" };
        Ok(done(1, format!("{container} {gone} disconnected from {network}{until}")))
    }

    /// Writes the objects down. A full disk does not undo the change: it is said, and written with the next one.
    pub(super) fn keep(&mut self) {
        if let Err(error) = self.objects.save() {
            tracing::error!(%error, "objects made through the API are not saved");
        }
    }

    fn target(&mut self, name: &str, reply: oneshot::Sender<Reply>) {
        let Some(container) = self.desired.container(name) else {
            return send(Some(reply), Err(no_container(name)));
        };
        let op = Op::Locate { container: name.into(), netns: container.netns.clone() };
        self.ask(op, move |result| {
            let answer = match result {
                Ok((KeeperAnswer::Target(target), _)) => Ok(Answer::Target(target)),
                Ok(_) => Err(ApiError::new(ApiErrorKind::Unavailable, "the keeper answered something else")),
                Err(refusal) => Err(ApiError::new(ApiErrorKind::Refused, refusal.to_string())),
            };
            let _ = reply.send(answer);
            Outcome::Nothing
        });
    }

    fn fdb_add(&mut self, mut add: FdbAdd) -> Reply {
        let record = self.networks.named(&add.network).ok_or_else(|| no_network(&add.network))?;
        let port = self.port_in(&add.network, &add.container, add.interface.as_deref())?;
        // What is behind a port and speaks without a tag is in the port's VLAN.
        add.vlan = add.vlan.or_else(|| self.ports.get(port)?.tagging.untagged());
        let added = record.fdb.add_static(add.vlan.unwrap_or(0), add.mac, port, Tick::now());
        added.map_err(|error| ApiError::new(ApiErrorKind::Invalid, error.to_string()))?;
        let text = format!("{} is behind port {port} for good", add.mac);
        self.objects
            .kept
            .fdb
            .retain(|kept| (&kept.network, kept.mac, kept.vlan) != (&add.network, add.mac, add.vlan));
        self.objects.kept.fdb.push(add);
        self.keep();
        Ok(done(1, text))
    }

    fn fdb_del(&mut self, del: &FdbDel) -> Reply {
        let record = self.networks.named(&del.network).ok_or_else(|| no_network(&del.network))?;
        if !record.fdb.remove(del.vlan.unwrap_or(0), del.mac) {
            let text = format!("no entry for {} in network {}", del.mac, del.network);
            return Err(ApiError::new(ApiErrorKind::NotFound, text));
        }
        self.objects
            .kept
            .fdb
            .retain(|kept| (&kept.network, kept.mac, kept.vlan) != (&del.network, del.mac, del.vlan));
        self.keep();
        Ok(done(1, format!("{} removed", del.mac)))
    }

    fn fdb_flush(&mut self, which: &FdbFlush) -> Reply {
        if let Some(network) = &which.network
            && self.networks.find(network).is_none()
        {
            return Err(no_network(network));
        }
        if let Some(container) = &which.container
            && self.desired.container(container).is_none()
        {
            return Err(no_container(container));
        }
        let ports = self.ports.ids(|port| {
            which.container.as_deref().is_none_or(|name| name == port.container())
                && which.interface.as_deref().is_none_or(|name| name == port.ifname())
        });
        let all_ports = which.container.is_none() && which.interface.is_none();
        let mut flushed = 0;
        for (_, record) in self.networks.all() {
            if which.network.as_ref().is_none_or(|name| *name == record.config.name) {
                flushed += record.fdb.flush_where(|vid, port| {
                    which.vlan.is_none_or(|vlan| vlan == vid) && (all_ports || ports.contains(&port))
                });
            }
        }
        Ok(done(flushed as u64, format!("{flushed} learned entries forgotten")))
    }

    /// The port of a container in a network; `interface` may be left out where there is only one.
    fn port_in(&self, network: &str, container: &str, interface: Option<&str>) -> Result<PortId, ApiError> {
        if self.desired.container(container).is_none() {
            return Err(no_container(container));
        }
        let mut fits = self.ports.wanted().filter(|(_, port)| {
            port.container() == container
                && self.networks.name(port.network) == network
                && interface.is_none_or(|name| name == port.ifname())
        });
        match (fits.next(), fits.next()) {
            (Some((id, _)), None) => Ok(id),
            (Some(_), Some(_)) => {
                let text = format!("{container} has several interfaces in {network}: name one");
                Err(ApiError::new(ApiErrorKind::Conflict, text))
            }
            (None, _) => {
                let text = format!("{container} has no such interface in {network}");
                Err(ApiError::new(ApiErrorKind::NotFound, text))
            }
        }
    }

    /// Puts back the static entries that were made through the API; called for a port that came to be.
    pub(super) fn restore_statics(&self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        let network = self.networks.name(record.network);
        for entry in &self.objects.kept.fdb {
            if entry.network == network
                && entry.container == record.container()
                && entry.interface.as_deref().is_none_or(|name| name == record.ifname())
                && let Some(network) = self.networks.get(record.network)
                && let Err(error) =
                    network.fdb.add_static(entry.vlan.unwrap_or(0), entry.mac, port, Tick::now())
            {
                tracing::warn!(%error, mac = %entry.mac, "static entry is not back");
            }
        }
    }
}

fn invalid(errors: &ConfigErrors) -> ApiError {
    let details: Vec<String> = errors.errors().iter().map(|error| error.first_line()).collect();
    ApiError::faults("the configuration is refused and nothing was changed", details)
}

fn unreadable(answer: String) -> Refusal {
    let asked = "read the configuration file".into();
    Refusal { kind: crate::wire::RefusalKind::Failed, asked, answer, help: None }
}

fn no_network(name: &str) -> ApiError {
    ApiError::new(ApiErrorKind::NotFound, format!("no network {name}"))
}

fn no_container(name: &str) -> ApiError {
    ApiError::new(ApiErrorKind::NotFound, format!("no container {name}"))
}

pub(super) fn done(changed: u64, text: String) -> Answer {
    Answer::Done(Done { changed, details: vec![text] })
}

pub(super) fn send(reply: Option<oneshot::Sender<Reply>>, answer: Reply) {
    if let Some(reply) = reply {
        // The caller may have given up.
        let _ = reply.send(answer);
    }
}
