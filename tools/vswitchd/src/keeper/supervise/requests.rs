//! What the engine asks for, and what follows when a lane or a command has ended.

use std::os::fd::OwnedFd;
use std::path::Path;

use switch::sys::fds;

use super::{Keeper, Phase};
use crate::config::OUTSIDE;
use crate::keeper::host::Host;
use crate::keeper::{nic, read_config};
use crate::wire::{Answer, AttachSpec, NetnsRef, Op, Refusal, RefusalKind, Target, ToEngine};

/// Who asked, and is to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) generation: u32,
    pub(super) id: u64,
}

type Answered = Result<(Answer, Vec<OwnedFd>), Refusal>;

/// What a lane hands back.
#[derive(Debug)]
pub(super) enum Finished {
    Answer(Asker, Answered),
    /// Where the container is that shall run `argv`.
    Start {
        asker: Asker,
        container: String,
        argv: Vec<String>,
        target: Result<Target, Refusal>,
    },
    /// The order in which things were asked has come to this.
    End {
        container: String,
        then: Then,
    },
    /// The container is gone.
    Released(Asker, String),
    /// What was removed behind our back is given up.
    Buried,
}

/// What follows the end of a command.
#[derive(Debug)]
pub(super) enum Then {
    Answer(Asker),
    Release { asker: Asker, container: String },
    Start { asker: Asker, container: String, argv: Vec<String>, target: Target },
    Nothing,
}

impl Keeper {
    fn answer(&mut self, asker: Asker, answered: Answered) {
        // The engine that asked may be dead; its successor asks again.
        if let Some(engine) = self.engine.as_mut().filter(|engine| engine.generation == asker.generation) {
            let (result, descriptors) = match answered {
                Ok((answer, descriptors)) => (Ok(answer), descriptors),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            engine.send(&ToEngine::Reply { id: asker.id, result }, descriptors);
        }
    }

    pub(super) fn on_request(&mut self, asker: Asker, op: Op) {
        let Some((asker, op)) = self.hold_back(asker, op) else { return };
        let container = op.container().map(str::to_owned);
        if let Some((asker, op)) = self.gate.pass(container.as_deref(), (asker, op)) {
            self.begin(asker, op);
        }
    }

    fn begin(&mut self, asker: Asker, op: Op) {
        let done = move |result: Result<(), Refusal>| {
            Finished::Answer(asker, result.map(|()| (Answer::Done, Vec::new())))
        };
        match op {
            Op::Attach(spec) if !self.may_attach(&spec) => {
                let asked = format!("interface {:?} of the host, for [uplink]", spec.ifname);
                let refusal = Refusal::new(
                    RefusalKind::Denied,
                    asked,
                    "it is not the uplink of the configuration file",
                );
                self.answer(asker, Err(refusal));
            }
            Op::Attach(spec) => {
                self.refer(&spec.container, &spec.netns, spec.create);
                self.submit(&spec.container.clone(), move |host| {
                    let attached = host.attach(&spec);
                    Finished::Answer(asker, attached.map(|(tap, info)| (Answer::Attached(info), vec![tap])))
                });
            }
            Op::Adjust(spec) => self.submit(&spec.container.clone(), move |host| done(host.adjust(&spec))),
            Op::Detach { container, ifname } => self.submit(&container.clone(), move |host| {
                host.detach(&container, &ifname);
                done(Ok(()))
            }),
            Op::Netns { container, netns, create } => {
                self.refer(&container, &netns, create);
                self.submit(&container.clone(), move |host| {
                    let namespace = host.netns(&container, &netns, create);
                    Finished::Answer(asker, namespace.map(|fd| (Answer::Done, Vec::from_iter(fd))))
                });
            }
            Op::Release { container } => {
                self.gate.close(&container);
                let then = Then::Release { asker, container: container.clone() };
                self.submit(&container.clone(), move |_| Finished::End { container, then });
            }
            Op::Run { container, argv } => self.run_command(asker, container, argv),
            Op::Halt { container } => {
                let then = Then::Answer(asker);
                self.submit(&container.clone(), move |_| Finished::End { container, then });
            }
            Op::Locate { container, netns } => self.submit(&container.clone(), move |host| {
                let target = host.locate(&container, &netns);
                Finished::Answer(asker, target.map(|target| (Answer::Target(target), Vec::new())))
            }),
            Op::Identify { container, netns } => self.submit(&container.clone(), move |host| {
                let cookie = host.identify(&container, &netns);
                Finished::Answer(asker, cookie.map(|cookie| (Answer::Identity(cookie), Vec::new())))
            }),
            Op::Listen { listen, skip } => {
                let answer = self.listeners.listen(&listen, skip);
                self.answer(asker, answer.map(|(first, sockets)| (Answer::Listening(first), sockets)));
            }
            Op::Unlisten(listen) => {
                self.listeners.close(&listen);
                self.answer(asker, Ok((Answer::Done, Vec::new())));
            }
            Op::ReadConfig => {
                let answer = config_again(&self.options.config);
                self.answer(asker, answer);
            }
        }
    }

    /// In the host's namespace, and of its NICs, there is what the file says.
    fn may_attach(&self, spec: &AttachSpec) -> bool {
        let of_host = spec.nic || (spec.container == OUTSIDE && spec.netns == NetnsRef::Host);
        let now = || read_config(&self.options.config).unwrap_or_default();
        !of_host || nic::is_configured(spec, [&now(), &self.options.config_text])
    }

    pub(super) fn submit(&mut self, container: &str, work: impl FnOnce(&Host) -> Finished + Send + 'static) {
        self.under_way = self.under_way.saturating_add(1);
        self.lanes.submit(container, work);
    }

    pub(super) fn refer(&mut self, container: &str, netns: &NetnsRef, create: bool) {
        self.lanes.set_slow(container, matches!(netns, NetnsRef::Docker(_) | NetnsRef::Podman(_)));
        self.references.insert(container.to_owned(), (netns.clone(), create));
    }

    fn run_command(&mut self, asker: Asker, container: String, argv: Vec<String>) {
        let Some((netns, _)) = self.references.get(&container).cloned() else {
            let refusal = Refusal::new(
                RefusalKind::Absent,
                format!("command of container {container:?}"),
                "no such container was attached",
            );
            return self.answer(asker, Err(refusal));
        };
        self.submit(&container.clone(), move |host| {
            let target = host.locate_own(&container, &netns);
            Finished::Start { asker, container, argv, target }
        });
    }

    pub(super) fn on_finished(&mut self, finished: Finished) {
        self.under_way = self.under_way.saturating_sub(1);
        match finished {
            Finished::Answer(asker, answered) => self.answer(asker, answered),
            Finished::Start { asker, target: Err(refusal), .. } => self.answer(asker, Err(refusal)),
            Finished::Start { asker, container, argv, target: Ok(target) } => {
                if self.commands.runs(&container, &argv, &target) {
                    self.answer(asker, Ok((Answer::Done, Vec::new())));
                } else {
                    let then = Then::Start { asker, container: container.clone(), argv, target };
                    self.end_command(&container, then);
                }
            }
            Finished::End { container, then } => self.end_command(&container, then),
            Finished::Released(asker, container) => {
                self.lanes.set_slow(&container, false);
                self.answer(asker, Ok((Answer::Done, Vec::new())));
                // Another Release among them closes the gate again for those after it.
                // What a dead engine wanted its successor may not.
                let generation = self.engine.as_ref().map(|engine| engine.generation);
                let waited = self.gate.open(&container).into_iter();
                waited
                    .filter(|(asker, _)| Some(asker.generation) == generation)
                    .for_each(|(asker, op)| self.on_request(asker, op));
            }
            Finished::Buried => self.burying = false,
        }
    }

    fn end_command(&mut self, container: &str, then: Then) {
        if let Some(then) = self.commands.end(container, then) {
            self.follow(then);
        }
    }

    /// Of those who waited for the end of a command the last one says what comes now.
    pub(super) fn on_command_end(&mut self, mut waiting: Vec<Then>) {
        let last = waiting.pop();
        for then in waiting {
            match then {
                Then::Start { asker, container, .. } => {
                    let asked = format!("command of container {container:?}");
                    let refusal = Refusal::new(RefusalKind::Failed, asked, "superseded by a later request");
                    self.answer(asker, Err(refusal));
                }
                then => self.follow(then),
            }
        }
        if let Some(last) = last {
            self.follow(last);
        }
    }

    fn follow(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Answer(asker) => self.answer(asker, Ok((Answer::Done, Vec::new()))),
            Then::Release { asker, container } => {
                self.references.remove(&container);
                self.submit(&container.clone(), move |host| {
                    host.release(&container);
                    Finished::Released(asker, container)
                });
            }
            Then::Start { asker, container, argv, target } if matches!(self.phase, Phase::Serving) => {
                let started = self.commands.start(&container, argv, target);
                self.answer(asker, started.map(|()| (Answer::Done, Vec::new())));
            }
            Then::Start { .. } => {}
        }
    }
}

fn config_again(path: &Path) -> Answered {
    let answer = read_config(path)
        .and_then(|text| fds::memory_file("configuration", text.as_bytes()))
        .map(|fd| (Answer::Config, vec![fd]));
    answer.map_err(|error| {
        Refusal::new(RefusalKind::Failed, format!("configuration file {}", path.display()), error)
    })
}
