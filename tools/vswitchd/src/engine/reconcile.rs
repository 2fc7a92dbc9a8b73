//! From what is there to what is wanted: what is asked of the keeper, and when. Its answers arrive in [`super::settle`].

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use switch::fdb::Flush;
use switch::mac::MacAddr;
use switch::mailbox::Command;
use switch::port::{NetworkId, PortId};

use super::control::Control;
use super::ports::{PortRecord, State, spec};
use super::records::{Bare, ContainerRecord, Outcome};
use crate::config::{Container, Device, HOST, Interface, OUTSIDE, UPLINK};
use crate::handover::Known;
use crate::wire::{Answer, AttachInfo, AttachSpec, NetnsRef, Op, Refusal, RefusalKind};

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
    /// Takes over interfaces that an engine before this one had. What is not wanted any more leaves, what is wanted
    /// otherwise is adjusted: both by the first reconciliation.
    pub fn adopt(&mut self, adopted: Vec<Adopted>, known: Vec<Known>) {
        self.put_networks();
        for Known { container, netns, create } in known {
            self.containers.insert(container, ContainerRecord::at((netns, create)));
        }
        for Adopted { spec, info, tap } in adopted {
            let home = (spec.netns.clone(), spec.create);
            self.containers.entry(spec.container.clone()).or_insert_with(|| ContainerRecord::at(home));
            let (network, mac) = match self.wanted_interface(&spec.container, &spec.ifname) {
                Some((_, network, _)) => (network, spec.mac.parse().unwrap_or(MacAddr::ZERO)),
                None => {
                    self.ask(Op::Detach { container: spec.container, ifname: spec.ifname }, |_| {
                        Outcome::Nothing
                    });
                    continue;
                }
            };
            if let Ok(port) = self.ports.insert(PortRecord::attaching(spec, network, mac)) {
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
            wanted.is_none_or(|(want, ..)| {
                let home = want.netns != port.spec.netns || want.create != port.spec.create;
                // A packet socket has one MAC, and is in one VLAN.
                let apart = |spec: &AttachSpec| spec.nic.then(|| (spec.mac.clone(), spec.vlan));
                home || apart(&want) != apart(&port.spec)
            })
        });
        for port in unwanted {
            self.leave(port);
        }
        self.release_containers();
        let desired = self.desired.clone();
        let ours: Vec<Container> = desired.ours().collect();
        for container in desired.containers.iter().chain(&ours) {
            let home = (container.netns.clone(), container.create);
            let known = self.containers.entry(container.name.clone());
            let known = known.or_insert_with(|| ContainerRecord::at(home.clone()));
            if known.home != home || self.releasing.contains(&container.name) {
                continue; // its old self goes first, and then this is called again
            }
            for interface in &container.interfaces {
                self.reconcile_interface(container, interface);
            }
            self.reconcile_namespace(container);
            self.reconcile_command(&container.name);
        }
        self.attach_held();
        self.drop_networks();
        self.reconcile_overlay();
        self.unpublished = true;
    }

    fn put_networks(&mut self) {
        let uplink = self.desired.outside.as_ref().map(|outside| outside.network(self.nic_mtu()));
        for network in self.desired.networks.iter().chain(&uplink) {
            if let Some(id) = self.networks.find(&network.name)
                && self.networks.get(id).is_some_and(|record| record.config.vlan != network.vlan)
            {
                // Its gateway is in another VLAN, and so is whoever it knows.
                let members = self.ports.all().filter(|(_, port)| port.network == id);
                self.relearned.extend(members.map(|(port, _)| (id, port)));
            }
            if let Err(error) = self.networks.put(network) {
                tracing::error!(network = network.name, %error, "no forwarding database");
            }
        }
        if let Some(outside) = &self.desired.outside
            && let Err(error) = self.networks.need_translator(outside)
        {
            tracing::error!(%error, "no room for connections: nothing is masqueraded, and nothing published");
        }
        if super::routing::needs_returns(&self.desired)
            && let Err(error) = self.networks.need_returns()
        {
            tracing::error!(%error, "no room for what comes back: networks that may only answer cannot");
        }
    }

    fn drop_networks(&mut self) {
        let gone: Vec<String> = self
            .networks
            .all()
            .filter(|(id, record)| {
                let uplink = self.desired.outside.is_some() && record.config.name == UPLINK;
                !uplink
                    && self.desired.network(&record.config.name).is_none()
                    && self.ports.all().all(|(_, port)| port.network != *id)
            })
            .map(|(_, record)| record.config.name.clone())
            .collect();
        for name in gone {
            self.networks.remove(&name);
        }
    }

    /// The interface as it is wanted, with its network's id and its MAC.
    fn wanted_interface(&self, container: &str, ifname: &str) -> Option<(AttachSpec, NetworkId, MacAddr)> {
        let container = self.wanted_container(container)?;
        let interface = container.interfaces.iter().find(|interface| interface.name == ifname)?;
        let network = self.networks.find(&interface.network)?;
        let mut spec = spec(&container, interface, &self.networks.get(network)?.config);
        let device = self.desired.outside.as_ref().map(|outside| &outside.device);
        spec.nic = container.name == OUTSIDE && matches!(device, Some(Device::Nic(_)));
        spec.vlan = interface.vlan.filter(|_| spec.nic);
        Some((spec, network, interface.mac))
    }

    /// The MTU of the NIC that is the uplink's port, once that is known.
    fn nic_mtu(&self) -> Option<u16> {
        let port = self.ports.wanted().find(|(_, port)| port.spec.nic)?.1;
        match &port.state {
            State::Up { info, .. } => info.mtu,
            _ => None,
        }
    }

    /// The container as it is wanted; the host's own legs are one, too, and so is what is outside.
    fn wanted_container(&self, name: &str) -> Option<Cow<'_, Container>> {
        if [HOST, OUTSIDE].contains(&name) {
            return self.desired.ours().find(|ours| ours.name == name).map(Cow::Owned);
        }
        self.desired.container(name).map(Cow::Borrowed)
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
            let mut record = PortRecord::attaching(want, network, mac);
            record.ruled(interface);
            match self.ports.insert(record) {
                // Once its addresses are granted.
                Ok(port) => drop(self.overlay.held.insert(port)),
                Err(_) => tracing::error!(container = container.name, "no switch port is left"),
            }
            return;
        };
        let Some(port) = self.ports.get_mut(id) else { return };
        if port.ruled(interface) {
            self.relearned.push((port.network, id));
        }
        if !port.is_wanted() || (port.spec == want && port.network == network) {
            return; // leaving: made anew when the old one is gone; or nothing changed
        }
        let from = std::mem::replace(&mut port.network, network);
        let before = std::mem::replace(&mut port.spec, want);
        port.mac = mac;
        let changed = port.is_up() && before != port.spec;
        if from != network {
            self.moved.push((from, id));
        }
        if changed {
            self.adjust(id, before);
        }
    }

    /// The namespace of a container that has no interface which would bring it about.
    fn reconcile_namespace(&mut self, container: &Container) {
        let Some(known) = self.containers.get_mut(&container.name) else { return };
        if !container.interfaces.is_empty() || known.bare != Bare::Unasked {
            return;
        }
        known.bare = Bare::Asked;
        let name = container.name.clone();
        let op =
            Op::Netns { container: name.clone(), netns: container.netns.clone(), create: container.create };
        self.ask(op, |result| Outcome::Prepared(name, result.map(|(_, mut fds)| fds.pop())));
    }

    /// A container's command runs once all its interfaces are there.
    pub(super) fn reconcile_command(&mut self, name: &str) {
        let Some(container) = self.wanted_container(name) else { return };
        let (wanted, interfaces) = (container.command.clone(), container.interfaces.len());
        let up = self.ports.wanted().filter(|(_, port)| port.container() == name && port.is_up()).count();
        let restarted = self.begin.restarts > 0 || self.begin.stand_by;
        let Some(known) = self.containers.get_mut(name) else { return };
        let complete = match interfaces {
            0 => known.bare == Bare::Ready,
            all => up == all,
        };
        let op = if wanted.is_empty() {
            // What an engine before this one told the keeper is not known: said once more.
            let nothing_runs = known.command.as_ref().map_or(!restarted, Vec::is_empty);
            (known.command, known.rerun, known.running) = (Some(Vec::new()), false, None);
            if nothing_runs {
                return;
            }
            Op::Halt { container: name.to_owned() }
        } else {
            if !complete || (!known.rerun && known.command.as_ref() == Some(&wanted)) {
                return;
            }
            (known.command, known.rerun) = (Some(wanted.clone()), false);
            Op::Run { container: name.to_owned(), argv: wanted }
        };
        let container = name.to_owned();
        self.ask(op, |result| Outcome::Ran { container, result: result.map(|_| ()) });
    }

    /// Containers that are not wanted any more, or not where they are, once their interfaces have left.
    fn release_containers(&mut self) {
        let gone: Vec<String> = self
            .containers
            .iter()
            .filter(|(name, known)| {
                let stays = self.wanted_container(name).is_some_and(|container| {
                    container.netns == known.home.0 && container.create == known.home.1
                });
                !stays && self.ports.all().all(|(_, port)| port.container() != *name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for container in gone {
            self.containers.remove(&container);
            self.releasing.insert(container.clone());
            self.ask(Op::Release { container: container.clone() }, |result| {
                if let Err(refusal) = result {
                    tracing::error!(%refusal, "not released");
                }
                Outcome::Left(container)
            });
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

    /// Asks for an interface. One that waits goes on waiting until the answer comes.
    pub(super) fn attach(&mut self, port: PortId) {
        let base = self.workers.sample(port);
        let Some(record) = self.ports.get_mut(port) else { return };
        if record.asked.is_some() {
            return;
        }
        record.asked = Some(record.spec.clone());
        if !matches!(record.state, State::Waiting { .. }) {
            record.state = State::Attaching;
            (record.base, record.weighed) = (base, base);
        }
        let op = Op::Attach(record.spec.clone());
        self.ask(op, move |result| Outcome::Attached { port, result: result.and_then(tap_of) });
    }

    pub(super) fn adjust(&mut self, port: PortId, before: AttachSpec) {
        let Some(record) = self.ports.get_mut(port) else { return };
        record.adjusting += 1;
        let op = Op::Adjust(record.spec.clone());
        let before = Box::new(before);
        self.ask(op, move |result| Outcome::Adjusted { port, before, result: result.map(|_| ()) });
    }

    /// A port is not wanted any more. Its id is free when workers and keeper have let go.
    fn leave(&mut self, port: PortId) {
        let Some(record) = self.ports.get_mut(port) else { return };
        let workers = if record.is_up() { self.workers.count() } else { 0 };
        let asked = record.asked.is_some();
        record.state = State::Leaving { workers, keeper: true };
        self.unpublished = true;
        if workers > 0 && !self.workers.tell_all(|_| Command::Detach { port }) {
            tracing::error!(port = port.0, "a worker does not listen");
        }
        // While an attempt is under way the keeper is told when its answer comes.
        if !asked {
            self.release(port);
        }
    }

    pub(super) fn release(&mut self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        let op = Op::Detach { container: record.spec.container.clone(), ifname: record.spec.ifname.clone() };
        self.ask(op, move |_| Outcome::Released(port));
    }

    /// The FDB of every network forgets a port; static entries only if its id is to be used again.
    pub(super) fn forget_macs(&self, which: Flush) {
        for (_, network) in self.networks.all() {
            network.fdb.flush(which);
            if let Flush::Port(port) | Flush::PortGone(port) = which {
                network.neighbors.flush(port);
                network.forget_groups(port);
            }
        }
        if let (Flush::PortGone(port), Some(returns)) = (which, self.networks.returns()) {
            returns.flush(port);
        }
    }

    /// Attaches what waits, where the host shows that the namespace may be there.
    pub(super) fn retry_waiting(&mut self) {
        let now = Instant::now();
        let due = self.ports.ids(|port| match &port.state {
            State::Waiting { retry, regardless, .. } => {
                *retry <= now && (port.spec.create || *regardless <= now || may_be_there(&port.spec.netns))
            }
            _ => false,
        });
        for port in due {
            self.attach(port);
        }
        let mut absent = Vec::new();
        for (name, known) in &mut self.containers {
            let (netns, create) = &known.home;
            if matches!(known.bare, Bare::Absent { retry, .. } if retry <= now)
                && (*create || may_be_there(netns))
            {
                known.bare = Bare::Unasked;
                absent.push(name.clone());
            }
        }
        for name in absent {
            if let Some(container) = self.wanted_container(&name).map(Cow::into_owned) {
                self.reconcile_namespace(&container);
            }
        }
    }

    /// Attempts again what had failed or was deleted: a reload is the wish to.
    pub(super) fn retry_failed(&mut self) {
        for port in self.ports.ids(|port| matches!(port.state, State::Down { .. } | State::Failed { .. })) {
            self.attach(port);
        }
        for known in self.containers.values_mut() {
            if let Bare::Failed(_) = known.bare {
                known.bare = Bare::Unasked;
                self.unreconciled = true;
            }
        }
    }
}

impl ContainerRecord {
    /// A container of which nothing was asked yet.
    pub fn at(home: (NetnsRef, bool)) -> Self {
        Self {
            home,
            bare: Bare::Unasked,
            command: None,
            rerun: false,
            running: None,
            process: None,
            namespace: None,
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

/// A cheap look before the keeper is asked; it sees more than this process, which has no privilege.
fn may_be_there(netns: &NetnsRef) -> bool {
    match netns {
        NetnsRef::Host => true,
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

/// Pause before a namespace that is not there is looked for again.
pub(super) fn pause(netns: &NetnsRef) -> Duration {
    match netns {
        // A question to a container engine costs a process.
        NetnsRef::Docker(_) | NetnsRef::Podman(_) => Duration::from_secs(2),
        _ => super::control::WAITING_POLL,
    }
}
