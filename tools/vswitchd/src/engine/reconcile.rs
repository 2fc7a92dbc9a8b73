//! From what is there to what is wanted.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use switch::fdb::Flush;
use switch::mailbox::Command;
use switch::port::{NetworkId, PortId};

use super::control::{ContainerRecord, Control, Outcome, WAITING_POLL};
use super::ports::{PortRecord, State};
use crate::config::{Container, Interface};
use crate::wire::{Answer, AttachInfo, AttachSpec, NetnsRef, Op, Refusal, RefusalKind};

/// Pause between two questions to a container engine, which cost a process each.
const ENGINE_POLL: Duration = Duration::from_secs(2);

/// An interface that was there before this engine was started.
pub struct Adopted {
    /// As it was asked for.
    pub spec: AttachSpec,
    /// As it turned out.
    pub info: AttachInfo,
    /// Its TAP.
    pub tap: OwnedFd,
}

impl Control {
    /// Takes over interfaces that an engine before this one had; those that are not wanted any more go.
    pub fn adopt(&mut self, adopted: Vec<Adopted>) {
        self.merge_objects();
        self.put_networks();
        for Adopted { spec, info, tap } in adopted {
            let wanted = self.wanted_interface(&spec.container, &spec.ifname);
            let Some((want, network, mac)) = wanted.filter(|(want, ..)| *want == spec) else {
                self.ask(Op::Detach { container: spec.container, ifname: spec.ifname }, |_| Outcome::Nothing);
                continue;
            };
            let record = PortRecord { spec: want, network, mac, state: State::Attaching, attempt: 0 };
            if let Ok(port) = self.ports.insert(record) {
                self.attached(port, info, tap);
            }
        }
    }

    /// Brings what is there to what is wanted. Idempotent; quadratic in the number of interfaces, so once for a burst.
    pub(super) fn reconcile(&mut self) {
        self.put_networks();
        let unwanted = self.ports.ids(|port| {
            let wanted = self.wanted_interface(port.container(), port.ifname());
            // Another namespace is another interface: this one leaves first.
            wanted.is_none_or(|(want, ..)| want.netns != port.spec.netns || want.create != port.spec.create)
        });
        for port in unwanted {
            self.leave(port);
        }
        let desired = self.desired.clone();
        for container in &desired.containers {
            for interface in &container.interfaces {
                self.reconcile_interface(container, interface);
            }
            self.reconcile_container(container);
        }
        self.release_containers();
        self.drop_networks();
        self.unpublished = true;
    }

    fn put_networks(&mut self) {
        for network in &self.desired.networks {
            if let Err(error) = self.networks.put(network) {
                tracing::error!(network = network.name, %error, "no forwarding database");
            }
        }
    }

    fn drop_networks(&mut self) {
        let gone: Vec<String> = self
            .networks
            .all()
            .filter(|(id, record)| {
                self.desired.network(&record.config.name).is_none()
                    && self.ports.all().all(|(_, port)| port.network != *id)
            })
            .map(|(_, record)| record.config.name.clone())
            .collect();
        for name in gone {
            self.networks.remove(&name);
        }
    }

    /// The interface as it is wanted, with its network's id and its MAC.
    fn wanted_interface(
        &self,
        container: &str,
        ifname: &str,
    ) -> Option<(AttachSpec, NetworkId, switch::mac::MacAddr)> {
        let container = self.desired.container(container)?;
        let interface = container.interfaces.iter().find(|interface| interface.name == ifname)?;
        let network = self.networks.find(&interface.network)?;
        let mtu = self.networks.get(network)?.config.mtu;
        Some((spec(container, interface, mtu), network, interface.mac))
    }

    fn reconcile_interface(&mut self, container: &Container, interface: &Interface) {
        let Some((want, network, mac)) = self.wanted_interface(&container.name, &interface.name) else {
            return;
        };
        let existing = self
            .ports
            .all()
            .find(|(_, port)| port.container() == container.name && port.ifname() == interface.name)
            .map(|(id, _)| id);
        let Some(id) = existing else {
            let record = PortRecord { spec: want, network, mac, state: State::Attaching, attempt: 0 };
            match self.ports.insert(record) {
                Ok(port) => self.attach(port),
                Err(_) => tracing::error!(container = container.name, "no switch port is left"),
            }
            return;
        };
        let Some(port) = self.ports.get_mut(id) else { return };
        if !port.is_wanted() || (port.spec == want && port.network == network) {
            return; // leaving: made anew when the old one is gone; or nothing changed
        }
        let (from, changed) = (port.network, port.spec != want);
        (port.spec, port.network, port.mac) = (want, network, mac);
        if from != network
            && let Some(record) = self.networks.get(from)
        {
            record.fdb.flush(Flush::PortGone(id));
        }
        if changed && self.ports.get(id).is_some_and(PortRecord::is_up) {
            self.adjust(id);
        }
    }

    /// Its namespace, where no interface brings it about; else its command.
    fn reconcile_container(&mut self, container: &Container) {
        let name = &container.name;
        let known = self.containers.entry(name.clone()).or_default();
        if container.interfaces.is_empty() && !known.prepared && known.reason.is_none() {
            known.prepared = true;
            let op = Op::Netns {
                container: name.clone(),
                netns: container.netns.clone(),
                create: container.create,
            };
            let name = name.clone();
            self.ask(op, |result| Outcome::Prepared(name, result.map(|_| ())));
            return;
        }
        self.reconcile_command(name);
    }

    /// A container's command runs once all its interfaces are there.
    fn reconcile_command(&mut self, name: &str) {
        let Some(container) = self.desired.container(name) else { return };
        let up = self.ports.wanted().filter(|(_, port)| port.container() == name && port.is_up()).count();
        let complete = up == container.interfaces.len();
        let Some(known) = self.containers.get_mut(name) else { return };
        if known.command == container.command || !(complete || container.command.is_empty()) {
            return;
        }
        known.command.clone_from(&container.command);
        let op = if container.command.is_empty() {
            Op::Halt { container: name.to_owned() }
        } else {
            Op::Run { container: name.to_owned(), argv: container.command.clone() }
        };
        self.ask(op, log_refusal);
    }

    fn release_containers(&mut self) {
        let gone: Vec<String> = self
            .containers
            .keys()
            .filter(|name| {
                self.desired.container(name).is_none()
                    && self.ports.all().all(|(_, port)| port.container() != *name)
            })
            .cloned()
            .collect();
        for container in gone {
            self.containers.remove(&container);
            self.ask(Op::Release { container }, log_refusal);
        }
    }

    /// Asks the keeper in a job of its own.
    pub(super) fn ask(
        &mut self,
        op: Op,
        then: impl FnOnce(Result<(Answer, Vec<OwnedFd>), Refusal>) -> Outcome + Send + 'static,
    ) {
        let keeper = std::sync::Arc::clone(&self.keeper);
        self.jobs.spawn(async move { then(keeper.ask(op).await) });
    }

    pub(super) fn attach(&mut self, port: PortId) {
        self.attempts += 1;
        let attempt = self.attempts;
        let Some(record) = self.ports.get_mut(port) else { return };
        record.attempt = attempt;
        record.state = State::Attaching;
        let op = Op::Attach(record.spec.clone());
        self.ask(op, move |result| Outcome::Attached { port, attempt, result: result.and_then(tap_of) });
    }

    fn adjust(&mut self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        let op = Op::Adjust(record.spec.clone());
        self.ask(op, move |result| Outcome::Adjusted(port, result.map(|_| ())));
    }

    /// A port is not wanted any more. Its id is free when worker and keeper have let go.
    fn leave(&mut self, port: PortId) {
        let Some(record) = self.ports.get_mut(port) else { return };
        let attaching = matches!(record.state, State::Attaching);
        let worker = record.is_up();
        record.state = State::Leaving { worker, keeper: true };
        self.unpublished = true;
        if worker && self.mailbox.tell(Command::Detach { port }).is_err() {
            tracing::error!(port = port.0, "the worker does not listen");
        }
        // While an attempt is under way the keeper is told when its answer comes.
        if !attaching {
            self.release(port);
        }
    }

    fn release(&mut self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        let op = Op::Detach { container: record.spec.container.clone(), ifname: record.spec.ifname.clone() };
        self.ask(op, move |_| Outcome::Released(port));
    }

    pub(super) fn worker_let_go(&mut self, port: PortId) {
        if let Some(State::Leaving { worker, .. }) = self.state_mut(port) {
            *worker = false;
        }
        self.free_if_left(port);
    }

    fn free_if_left(&mut self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        if !matches!(record.state, State::Leaving { worker: false, keeper: false }) {
            return;
        }
        self.forget_macs(Flush::PortGone(port));
        self.ports.remove(port);
        self.unreconciled = true;
    }

    /// The FDB forgets a port; static entries only if its id is to be used again.
    fn forget_macs(&self, which: Flush) {
        for (_, network) in self.networks.all() {
            network.fdb.flush(which);
        }
    }

    /// The worker found that a TAP does not exist any more, and let it go.
    pub(super) fn port_died(&mut self, port: PortId) {
        let Some(record) = self.ports.get_mut(port) else { return };
        let State::Up { .. } = record.state else {
            self.worker_let_go(port);
            return;
        };
        let State::Up { info, .. } = std::mem::replace(&mut record.state, State::Attaching) else { return };
        tracing::info!(container = record.container(), iface = record.ifname(), "interface is gone");
        let (spec, attempt, was) = (record.spec.clone(), record.attempt, info.netns_cookie);
        self.unpublished = true;
        self.forget_macs(Flush::Port(port));
        if let Some(known) = self.containers.get_mut(&spec.container) {
            known.command.clear(); // run anew when the container is back
        }
        let keeper = std::sync::Arc::clone(&self.keeper);
        self.jobs.spawn(async move {
            let _ = keeper.ask(Op::Detach { container: spec.container.clone(), ifname: spec.ifname }).await;
            let result = keeper.ask(Op::Identify { container: spec.container, netns: spec.netns }).await;
            let same = result.map(|(answer, _)| answer == Answer::Identity(was));
            Outcome::Identified { port, attempt, result: same }
        });
    }

    /// Attaches what waits, where the host shows that the namespace may be there.
    pub(super) fn retry_waiting(&mut self) {
        let now = Instant::now();
        let due = self.ports.ids(|port| match &port.state {
            State::Waiting { retry, .. } => *retry <= now && may_be_there(&port.spec.netns),
            _ => false,
        });
        for port in due {
            self.attach(port);
        }
    }

    /// Attempts again what had failed or was deleted: a reload is the wish to.
    pub(super) fn retry_failed(&mut self) {
        for port in self.ports.ids(|port| matches!(port.state, State::Down { .. } | State::Failed { .. })) {
            self.attach(port);
        }
    }

    /// A job came back.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Attached { port, attempt, result } => self.attach_answered(port, attempt, result),
            Outcome::Released(port) => {
                if let Some(State::Leaving { keeper, .. }) = self.state_mut(port) {
                    *keeper = false;
                }
                self.free_if_left(port);
            }
            Outcome::Adjusted(port, result) => {
                if let (Err(refusal), Some(record)) = (result, self.ports.get(port)) {
                    tracing::error!(container = record.container(), iface = record.ifname(), %refusal, "not adjusted");
                }
            }
            Outcome::Identified { port, attempt, result } => self.identified(port, attempt, result),
            Outcome::Prepared(name, result) => self.prepared(&name, result),
            Outcome::FileRead { result, reply } => self.file_read(result, reply),
            Outcome::Nothing => {}
        }
    }

    fn attach_answered(
        &mut self,
        port: PortId,
        attempt: u64,
        result: Result<(AttachInfo, OwnedFd), Refusal>,
    ) {
        let Some(record) = self.ports.get_mut(port) else { return };
        if !record.is_wanted() {
            self.release(port);
            return;
        }
        if record.attempt != attempt {
            return;
        }
        match result {
            Ok((info, tap)) => {
                let container = record.spec.container.clone();
                self.attached(port, info, tap);
                self.reconcile_command(&container);
            }
            Err(refusal) if refusal.kind == RefusalKind::Absent => {
                let pause = match record.spec.netns {
                    NetnsRef::Docker(_) | NetnsRef::Podman(_) => ENGINE_POLL,
                    _ => WAITING_POLL,
                };
                record.wait(refusal.to_string(), pause);
            }
            Err(refusal) => {
                tracing::error!(container = record.container(), iface = record.ifname(), %refusal, "not attached");
                record.state = State::Failed { reason: refusal.to_string() };
            }
        }
    }

    fn attached(&mut self, port: PortId, info: AttachInfo, tap: OwnedFd) {
        let Some(record) = self.ports.get_mut(port) else { return };
        tracing::info!(
            container = record.container(),
            iface = record.ifname(),
            port = port.0,
            "interface is up"
        );
        let command = Command::Attach { port, tap, gso: info.gso_writes };
        record.state = State::Up { info, link_down: false, gso_refused: false };
        self.unpublished = true;
        if self.mailbox.tell(command).is_err() {
            record.state = State::Failed { reason: "the worker does not listen".into() };
        }
        self.restore_statics(port);
    }

    fn identified(&mut self, port: PortId, attempt: u64, same: Result<bool, Refusal>) {
        let Some(record) = self.ports.get_mut(port) else { return };
        if !record.is_wanted() {
            self.release(port);
            return;
        }
        if record.attempt != attempt {
            return;
        }
        match same {
            Ok(true) => {
                let reason = "deleted in the container; `vswitchctl reload` makes it again".into();
                record.state = State::Down { reason };
            }
            Ok(false) => self.attach(port),
            Err(refusal) => record.wait(refusal.to_string(), WAITING_POLL),
        }
    }

    fn prepared(&mut self, name: &str, result: Result<(), Refusal>) {
        let known: &mut ContainerRecord = self.containers.entry(name.to_owned()).or_default();
        match result {
            Ok(()) => self.reconcile_command(name),
            Err(refusal) => {
                tracing::error!(container = name, %refusal, "no namespace");
                known.prepared = false;
                known.reason = Some(refusal.to_string());
            }
        }
    }
}

fn tap_of((answer, mut fds): (Answer, Vec<OwnedFd>)) -> Result<(AttachInfo, OwnedFd), Refusal> {
    match (answer, fds.pop()) {
        (Answer::Attached(info), Some(tap)) => Ok((info, tap)),
        _ => Err(Refusal {
            kind: RefusalKind::Failed,
            asked: "make the interface".into(),
            answer: "the keeper sent no TAP".into(),
            help: None,
        }),
    }
}

fn log_refusal(result: Result<(Answer, Vec<OwnedFd>), Refusal>) -> Outcome {
    if let Err(refusal) = result {
        tracing::error!(%refusal, "refused");
    }
    Outcome::Nothing
}

/// A cheap look before the keeper is asked.
fn may_be_there(netns: &NetnsRef) -> bool {
    match netns {
        NetnsRef::Name(name) => std::path::Path::new("/run/netns").join(name).exists(),
        // A sister user namespace's may not even be looked at from here: only the keeper's helper outside can tell.
        NetnsRef::Path(path) => match path.metadata() {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        },
        NetnsRef::Pid(pid) => std::path::Path::new(&format!("/proc/{pid}")).exists(),
        NetnsRef::Docker(_) | NetnsRef::Podman(_) => true,
    }
}

fn spec(container: &Container, interface: &Interface, mtu: u16) -> AttachSpec {
    AttachSpec {
        container: container.name.clone(),
        netns: container.netns.clone(),
        create: container.create,
        ifname: interface.name.clone(),
        mac: interface.mac.to_string(),
        mtu: u32::from(mtu),
        addresses: interface.ip.iter().map(|ip| (ip.addr().into(), ip.prefix_len())).collect(),
        default_via: interface.default_via.map(Into::into),
    }
}
