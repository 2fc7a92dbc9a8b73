//! What workers report of their ports.

use switch::mailbox::Event;
use switch::port::PortId;

use super::control::Control;
use super::ports::State;

impl Control {
    /// Takes in what workers reported.
    pub(super) fn worker_events(&mut self) {
        while let Some(event) = self.workers.first().next_event() {
            match event {
                Event::Gone(port) => self.port_died(port),
                Event::Detached(port) => self.worker_let_go(port),
                Event::GsoRefused(port) => {
                    tracing::warn!(
                        port = port.0,
                        "the kernel refuses super-frames: they are segmented here from now on"
                    );
                    if let Some(State::Up { gso_refused, .. }) = self.state_mut(port) {
                        *gso_refused = true;
                    }
                }
                Event::Rests(port) => self.rests(port),
                Event::Stays(port) => self.stays(port),
                Event::LinkDown(port) => self.link_changed(port, true),
                Event::LinkUp(port) => self.link_changed(port, false),
                Event::AttachFailed(port, error) => {
                    tracing::error!(port = port.0, %error, "the worker cannot serve the TAP");
                    if let Some(state @ State::Up { .. }) = self.state_mut(port) {
                        *state =
                            State::Failed { reason: format!("the worker cannot serve its TAP: {error}") };
                    }
                    self.unpublished = true;
                }
            }
        }
    }

    fn link_changed(&mut self, port: PortId, down: bool) {
        if let Some(State::Up { link_down, .. }) = self.state_mut(port) {
            *link_down = down;
        }
    }
}
