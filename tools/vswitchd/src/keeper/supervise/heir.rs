//! Handing over to another daemon: [`crate::handover`], the predecessor's side.
//!
//! From `Hello` on nothing changes here: what the engine asks waits, what is under way ends. Whatever goes wrong before
//! the heir's `Mine`, all goes on where it stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use switch::sys::netns;

use super::requests::Asker;
use super::{Keeper, Phase};
use crate::channel::ChannelError;
use crate::handover::{self, FromHeir, FromPredecessor, Known};
use crate::keeper::post::{Post, Received};
use crate::wire::{NetnsRef, Op, Refusal, RefusalKind, ToEngine};

/// An heir that asks must say so at once, and be through by then.
const PATIENCE: Duration = Duration::from_secs(30);
const GREETING: Duration = Duration::from_secs(5);
/// An engine that has not ended by itself by then is killed: traffic stands still meanwhile.
const ENGINE_ENDS: Duration = Duration::from_millis(300);

/// Someone who takes over, or wants to.
#[derive(Debug)]
pub(super) struct Heir {
    post: Post,
    stage: Stage,
    /// What the engine asked meanwhile.
    waiting: Vec<(Asker, Op)>,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has said nothing yet.
    Greeting,
    /// What is under way ends.
    Settling,
    /// It was told what there is.
    Offered,
    /// Its engine stands by, ours ends.
    EngineEnds,
    /// It was told that all is its own.
    Yielded,
}

impl Heir {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.post.as_fd()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.post.wants_to_write()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.until
    }
}

impl Keeper {
    /// Someone knocks. One at a time: the next waits outside.
    pub(super) fn on_visitor(&mut self) {
        let visitor = match handover::accept(&self.handover) {
            Ok(Some(channel)) => Post::new(channel),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match visitor {
            Ok(post) => {
                let until = Instant::now() + GREETING;
                self.heir = Some(Heir { post, stage: Stage::Greeting, waiting: Vec::new(), until });
            }
            Err(error) => tracing::warn!(%error, "someone who wants to take over"),
        }
    }

    /// Keeps a request back; it comes back if nothing is being handed over.
    pub(super) fn hold_back(&mut self, asker: Asker, op: Op) -> Option<(Asker, Op)> {
        match &mut self.heir {
            Some(heir) if heir.stage != Stage::Greeting => {
                heir.waiting.push((asker, op));
                None
            }
            _ => Some((asker, op)),
        }
    }

    pub(super) fn on_heir(&mut self) {
        let Some(heir) = &mut self.heir else { return };
        if let Err(error) = heir.post.flush() {
            return self.disinherit(&error.to_string());
        }
        match (heir.post.receive(), heir.stage) {
            (Received::Nothing, _) => {}
            (Received::Message(FromHeir::Hello { version, asked }, _), Stage::Greeting) => {
                self.on_hello(version, asked);
            }
            (Received::Message(FromHeir::Standing, _), Stage::Offered) => {
                heir.stage = Stage::EngineEnds;
                self.tell(&ToEngine::MakeWay, Vec::new());
                if let Some(engine) = &mut self.engine {
                    engine.expect_end(Instant::now() + ENGINE_ENDS);
                }
                self.restart_at = None;
                self.go_on_handing_over();
            }
            (Received::Message(FromHeir::Mine, _), Stage::Yielded) => {
                tracing::info!("another vswitchd took over");
                self.heir = None;
                self.handed_over = true;
            }
            (Received::Closed, Stage::Greeting) => self.heir = None,
            (Received::Closed, _) => self.disinherit("it ended"),
            (Received::Message(..) | Received::Garbage, _) => self.disinherit("it does not speak as agreed"),
        }
    }

    fn on_hello(&mut self, version: u32, asked: bool) {
        let pid = std::process::id();
        let refusal = match () {
            () if version != handover::VERSION => handover::not_understood(version),
            () if !asked => FromPredecessor::Refused(
                Refusal::new(
                    RefusalKind::Exists,
                    "take over",
                    format!("vswitchd is already running, pid {pid}"),
                )
                .help("stop it, or take over from it with --take-over"),
            ),
            () => {
                tracing::info!("another vswitchd asks to take over");
                if let Some(heir) = &mut self.heir {
                    (heir.stage, heir.until) = (Stage::Settling, Instant::now() + PATIENCE);
                }
                return self.go_on_handing_over();
            }
        };
        if let Some(mut heir) = self.heir.take() {
            // If it does not hear it, it hears the end of the conversation.
            let _gone = heir.post.send(&refusal, Vec::new());
        }
    }

    /// The next step, if what it waits for has come about.
    pub(super) fn go_on_handing_over(&mut self) {
        let Some(stage) = self.heir.as_ref().map(|heir| heir.stage) else { return };
        let told = match stage {
            Stage::Settling if self.under_way == 0 && self.gate.is_open() && !self.commands.are_ending() => {
                self.offer().map(|()| Stage::Offered)
            }
            Stage::EngineEnds if self.engine.is_none() => self.yield_all().map(|()| Stage::Yielded),
            _ => return,
        };
        match told {
            Ok(next) => {
                if let Some(heir) = &mut self.heir {
                    heir.stage = next;
                }
            }
            Err(error) => self.disinherit(&error.to_string()),
        }
    }

    fn say(&mut self, message: &FromPredecessor, descriptors: Vec<OwnedFd>) -> Result<(), ChannelError> {
        match &mut self.heir {
            Some(heir) => heir.post.send(message, descriptors),
            None => Ok(()),
        }
    }

    /// Tells what there is.
    fn offer(&mut self) -> Result<(), ChannelError> {
        let estate = FromPredecessor::Estate {
            pid: std::process::id(),
            state: netns::identity(&self.lock).map_err(io::Error::from)?,
            netns: netns::current().and_then(netns::identity).map_err(io::Error::from)?,
        };
        let descriptors = vec![
            self.listener.try_clone()?,
            self.handover.try_clone()?,
            handover::own_user_namespace()?,
            self.lock.try_clone()?,
        ];
        self.say(&estate, descriptors)?;
        let memory = self.memory.try_clone()?;
        self.say(&FromPredecessor::Connections, vec![memory])?;
        for (tap, spec, info) in self.host.adoptable()? {
            self.say(&FromPredecessor::Tap { spec, info }, vec![tap])?;
        }
        for namespace in self.host.heritage()? {
            let message = FromPredecessor::Namespace { name: namespace.name, users: namespace.users };
            self.say(&message, Vec::from_iter(namespace.fd))?;
        }
        let known = |(container, (netns, create)): (&String, &(NetnsRef, bool))| Known {
            container: container.clone(),
            netns: netns.clone(),
            create: *create,
        };
        let containers: Vec<Known> = self.references.iter().map(known).collect();
        for container in containers {
            self.say(&FromPredecessor::Container(container), Vec::new())?;
        }
        for (listen, sockets) in self.listeners.heritage()? {
            self.say(&FromPredecessor::Listening(listen), sockets)?;
        }
        self.say(&FromPredecessor::Offered, Vec::new())
    }

    /// The rest, which moved until the engine had ended.
    fn yield_all(&mut self) -> Result<(), ChannelError> {
        let running: Vec<_> = self.commands.states().map(|(container, _)| container).collect();
        for container in running {
            if let Some((running, descriptors)) = self.commands.running(&container)? {
                self.say(&FromPredecessor::Command { container, running }, descriptors)?;
            }
        }
        self.say(&FromPredecessor::Yours, Vec::new())
    }

    /// The heir takes nothing over: all goes on.
    pub(super) fn disinherit(&mut self, why: &str) {
        let Some(heir) = self.heir.take() else { return };
        tracing::warn!(why, "nothing was handed over: this vswitchd goes on");
        if matches!(self.phase, Phase::Serving) && self.engine.is_none() && self.restart_at.is_none() {
            self.restart_at = Some(Instant::now());
        }
        let generation = self.engine.as_ref().map(|engine| engine.generation);
        for (asker, op) in heir.waiting.into_iter().filter(|(asker, _)| Some(asker.generation) == generation)
        {
            self.on_request(asker, op);
        }
    }

    /// Whether an heir waits for the engine's end.
    pub(super) fn wants_engine_ended(&self) -> bool {
        self.heir.as_ref().is_some_and(|heir| matches!(heir.stage, Stage::EngineEnds | Stage::Yielded))
    }
}
