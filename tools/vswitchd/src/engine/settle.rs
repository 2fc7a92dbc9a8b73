//! What came of what was asked: answers of the keeper, and what workers noticed.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use switch::fdb::Flush;
use switch::mailbox::Command;
use switch::port::PortId;

use super::control::Control;
use super::ports::State;
use super::reconcile::pause;
use super::records::{Bare, Outcome};
use super::workers;
use crate::api::rows::{CommandState, Done};
use crate::api::{Answer as ApiAnswer, ApiError, ApiErrorKind, Reply};
use crate::wire::{Answer, AttachInfo, Op, Refusal, RefusalKind};

impl Control {
    /// A job came back.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Attached { port, result } => self.attach_answered(port, result),
            Outcome::Released(port) => {
                if let Some(State::Leaving { keeper, .. }) = self.state_mut(port) {
                    *keeper = false;
                }
                self.free_if_left(port);
            }
            Outcome::Adjusted { port, before, result } => {
                let Some(record) = self.ports.get_mut(port) else { return };
                record.adjusting = record.adjusting.saturating_sub(1);
                self.unpublished |= record.adjusting == 0; // its gateway may speak again
                record.refused = None;
                if let Err(refusal) = result {
                    tracing::error!(container = record.container(), iface = record.ifname(), %refusal, "not adjusted");
                    record.refused = Some(format!("not changed: {refusal}"));
                    // It is as it was; the next reconciliation asks again.
                    record.spec = *before;
                }
            }
            Outcome::Left(container) => {
                self.releasing.remove(&container);
                self.unreconciled = true;
            }
            Outcome::Ran { container, result } => {
                if let (Err(refusal), Some(known)) = (result, self.containers.get_mut(&container)) {
                    tracing::error!(container, %refusal, "command");
                    // Asked again by the next reconciliation, not at once: the reason may stay.
                    (known.command, known.running) = (Some(Vec::new()), Some(CommandState::Stopped));
                }
            }
            Outcome::Identified { port, result } => self.identified(port, result),
            Outcome::Prepared(name, result) => self.prepared(&name, result),
            Outcome::FileRead { result, reply } => self.file_read(result, reply),
            Outcome::Clients { clients, reply } => {
                // The caller may have given up.
                let _ = reply.send(Ok(ApiAnswer::Nat(self.nat_rows(&clients))));
            }
            Outcome::Connections { rows, tracked, container, reply } => {
                let rows = self.connection_rows(&rows, &tracked, container.as_deref());
                // The caller may have given up.
                let _ = reply.send(Ok(ApiAnswer::Connections(rows)));
            }
            Outcome::Listening(key, result) => self.listening(key, result),
            Outcome::Claimed(key, claimed) => self.claimed(key, claimed),
            Outcome::Noted(done) => self.cluster_noted(done),
            Outcome::HandedOver(heir) => {
                self.handing_over = false;
                self.heir = heir;
            }
            Outcome::Aged(took) => self.connections_aged(took),
            Outcome::Nothing => {}
        }
    }

    fn attach_answered(&mut self, port: PortId, result: Result<(AttachInfo, OwnedFd), Refusal>) {
        let Some(record) = self.ports.get_mut(port) else { return };
        let asked = record.asked.take();
        if !record.is_wanted() {
            self.release(port);
            return;
        }
        match result {
            Ok((info, tap)) => {
                let container = record.spec.container.clone();
                // A reload may have changed what is wanted while the keeper worked on what was.
                let outdated = asked.filter(|asked| *asked != record.spec);
                self.attached(port, info, tap);
                if let Some(before) = outdated {
                    self.adjust(port, before);
                }
                self.reconcile_command(&container);
            }
            Err(refusal) if refusal.kind == RefusalKind::Absent => {
                let pause = pause(&record.spec.netns);
                record.wait(refusal.to_string(), pause);
            }
            Err(refusal) => {
                tracing::error!(container = record.container(), iface = record.ifname(), %refusal, "not attached");
                record.state = State::Failed { reason: refusal.to_string() };
            }
        }
    }

    /// The workers serve a TAP from now on, of whom one reads it.
    pub(super) fn attached(&mut self, port: PortId, info: AttachInfo, tap: OwnedFd) {
        let reader = workers::fewest(&self.ports, self.workers.count());
        let Some(record) = self.ports.get_mut(port) else { return };
        // Its network has the NIC's MTU, which is known by now.
        self.unreconciled |= record.spec.nic;
        tracing::info!(
            container = record.container(),
            iface = record.ifname(),
            port = port.0,
            "interface is up"
        );
        let tap = Arc::new(tap);
        record.read_by(reader);
        let (for_all, gso) = (Arc::clone(&tap), info.gso_writes);
        let told = self.workers.tell_all(|worker| Command::Attach {
            port,
            tap: Arc::clone(&for_all),
            gso,
            reads: worker == reader,
        });
        record.state = State::Up { info, tap, link_down: false, gso_refused: false };
        self.unpublished = true;
        if !told {
            record.state = State::Failed { reason: "a worker does not listen".into() };
        }
        self.restore_statics(port);
    }

    pub(super) fn worker_let_go(&mut self, port: PortId) {
        if let Some(State::Leaving { workers, .. }) = self.state_mut(port) {
            *workers = workers.saturating_sub(1);
        }
        self.free_if_left(port);
    }

    fn free_if_left(&mut self, port: PortId) {
        let Some(record) = self.ports.get(port) else { return };
        if matches!(record.state, State::Leaving { workers: 0, keeper: false }) {
            self.forget_macs(Flush::PortGone(port));
            self.ports.remove(port);
            self.gone.push(port);
            self.dhcp.forget(port);
            self.unreconciled = true;
        }
    }

    /// The worker that reads it found that a TAP does not exist any more, and let it go. Whether its namespace died or somebody
    /// deleted the interface is for the keeper to see.
    pub(super) fn port_died(&mut self, port: PortId) {
        let Some(record) = self.ports.get_mut(port) else { return };
        if !record.is_up() {
            return; // it leaves already, and every worker says when it has let go
        }
        let State::Up { info, .. } = std::mem::replace(&mut record.state, State::Attaching) else { return };
        tracing::info!(container = record.container(), iface = record.ifname(), "interface is gone");
        let (spec, was) = (record.spec.clone(), info.netns_cookie);
        self.unpublished = true;
        self.forget_macs(Flush::Port(port));
        if let Some(known) = self.containers.get_mut(&spec.container) {
            known.rerun = true;
        }
        let keeper = Arc::clone(&self.keeper);
        self.jobs.spawn(async move {
            let _ = keeper.ask(Op::Detach { container: spec.container.clone(), ifname: spec.ifname }).await;
            let result = keeper.ask(Op::Identify { container: spec.container, netns: spec.netns }).await;
            Outcome::Identified { port, result: result.map(|(answer, _)| answer == Answer::Identity(was)) }
        });
    }

    fn identified(&mut self, port: PortId, same: Result<bool, Refusal>) {
        let Some(record) = self.ports.get_mut(port) else { return };
        if !matches!(record.state, State::Attaching) {
            return; // it leaves, and was released by that
        }
        match same {
            // It is down, or was taken out of the host: waited for.
            Ok(_) if record.spec.nic => self.attach(port),
            Ok(true) => {
                let reason = "deleted in the container; `vswitchctl reload` makes it again".into();
                record.state = State::Down { reason };
            }
            Ok(false) => self.attach(port),
            Err(refusal) => {
                let pause = pause(&record.spec.netns);
                record.wait(refusal.to_string(), pause);
            }
        }
    }

    fn prepared(&mut self, name: &str, result: Result<Option<OwnedFd>, Refusal>) {
        let Some(known) = self.containers.get_mut(name) else { return };
        known.bare = match result {
            Ok(namespace) => {
                known.namespace = namespace.map(Arc::new);
                Bare::Ready
            }
            Err(refusal) if refusal.kind == RefusalKind::Absent => {
                Bare::Absent { reason: refusal.to_string(), retry: Instant::now() + pause(&known.home.0) }
            }
            Err(refusal) => {
                tracing::error!(container = name, %refusal, "no namespace");
                Bare::Failed(refusal.to_string())
            }
        };
        self.reconcile_command(name);
    }

    /// What came of a reload: the configuration is in force, and the host may have refused a part of it.
    pub(super) fn reloaded(&self, done: Done, failed: &[PortId]) -> Reply {
        let details: Vec<String> = self
            .ports
            .wanted()
            .filter_map(|(id, port)| {
                let reason = match &port.state {
                    State::Failed { reason } if !failed.contains(&id) => Some(reason),
                    _ => port.refused.as_ref(),
                };
                Some(format!("{} {}: {}", port.container(), port.ifname(), reason?))
            })
            .collect();
        if details.is_empty() {
            return Ok(ApiAnswer::Done(done));
        }
        let message = "applied, but the host refused a part of it".into();
        Err(ApiError { kind: ApiErrorKind::Refused, message, details })
    }
}
