//! What the workers' uplink is told: registries -> one immutable value, and a nudge.

use std::sync::Arc;

use nat::sockets::Settings;

use super::control::Control;
use crate::uplink::Configured;

/// The control plane's side of the uplink.
pub struct UplinkControl {
    settings: Configured,
    generation: u64,
    /// What was there before: dropped here, not by a worker.
    retired: Option<Arc<Settings>>,
}

impl UplinkControl {
    /// Publishes to whoever reads `settings`.
    pub fn new(settings: Configured) -> Self {
        Self { settings, generation: 0, retired: None }
    }
}

impl Control {
    /// Publishes what the uplink is to be now and wakes the workers, which take it in with their next batch.
    pub(super) fn configure_uplink(&mut self) {
        self.uplink.generation += 1;
        let settings = Settings { generation: self.uplink.generation, ..Settings::default() };
        self.uplink.retired = Some(self.uplink.settings.swap(Arc::new(settings)));
        self.mailbox.wake();
    }
}
