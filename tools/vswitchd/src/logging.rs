//! Logs: structured, on standard error, and so limited that no container can fill a disk with them.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// The variable that says what is logged, as `tracing`'s filters are written: `info`, `vswitchd=debug`.
pub const LEVEL_VARIABLE: &str = "VSWITCHD_LOG";
/// The variable that says how, as `--log-format` does: `text` or `json`.
pub const FORMAT_VARIABLE: &str = "VSWITCHD_LOG_FORMAT";

/// Target of lines that containers' commands write; the keeper gives each container a budget of its own.
pub const COMMAND: &str = "command";

/// Lines that one place in the code may write in [`WINDOW_SECONDS`].
const BURST: u64 = 64;
/// Length of the window.
const WINDOW_SECONDS: u64 = 10;

/// Starts logging, as text or as one JSON object a line.
///
/// # Errors
/// What is wrong with [`LEVEL_VARIABLE`].
pub fn start(json: bool) -> Result<(), String> {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let level = EnvFilter::try_new(wanted).map_err(|error| {
        format!("{LEVEL_VARIABLE} = \"{wanted}\": {error}; try `info` or `vswitchd=debug`")
    })?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    // Fails only if logging was started before.
    let _ = Registry::default().with(lines.with_filter(RateLimit::new(json)).with_filter(level)).try_init();
    Ok(())
}

/// A budget of lines for each place in the code.
///
/// # Threads
/// Shared; counts by atomics, in a concurrent map of places.
struct RateLimit {
    /// Lines are JSON objects.
    json: bool,
    start: Instant,
    places: DashMap<Identifier, Place>,
}

#[derive(Default)]
struct Place {
    window: AtomicU64,
    lines: AtomicU64,
}

impl RateLimit {
    fn new(json: bool) -> Self {
        Self { json, start: Instant::now(), places: DashMap::new() }
    }

    /// The line about those that were left out.
    fn notice(&self, lost: u64) -> String {
        let text = format!("{lost} more lines like the following were left out");
        let line = || serde_json::json!({ "level": "INFO", "message": text }).to_string();
        if self.json { line() } else { format!("({text})") }
    }

    /// Whether `place` may write a line in `window`, and how many it could not in the window before.
    fn take(&self, place: Identifier, window: u64) -> (bool, u64) {
        let place = self.places.entry(place).or_default();
        let lost = if place.window.swap(window, Ordering::Relaxed) == window {
            0
        } else {
            place.lines.swap(0, Ordering::Relaxed).saturating_sub(BURST)
        };
        (place.lines.fetch_add(1, Ordering::Relaxed) < BURST, lost)
    }
}

impl<S: Subscriber> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if event.metadata().target() == COMMAND {
            return true;
        }
        let window = self.start.elapsed().as_secs() / WINDOW_SECONDS;
        let (allowed, lost) = self.take(event.metadata().callsite(), window);
        if lost > 0 {
            // Said past `tracing`, inside of which we are. A closed standard error is nobody's loss.
            let _ = writeln!(std::io::stderr(), "{}", self.notice(lost));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(&'static AtomicU64);

    impl<S: Subscriber> tracing_subscriber::Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn output_of_commands_has_its_own_budget_elsewhere() {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let registry = Registry::default().with(Count(&WRITTEN).with_filter(RateLimit::new(false)));
        tracing::subscriber::with_default(registry, || {
            (0..200).for_each(|_| tracing::info!(target: COMMAND, "a line"));
            assert_eq!(WRITTEN.swap(0, Ordering::Relaxed), 200);
            (0..200).for_each(|_| tracing::info!("a line of ours"));
            // The window may end in between, never twice.
            assert!(WRITTEN.load(Ordering::Relaxed) <= 2 * BURST);
        });
    }

    #[test]
    fn a_place_has_a_budget_a_window_and_what_it_lost_is_said() {
        let limit = RateLimit::new(true);
        let notice: serde_json::Value = serde_json::from_str(&limit.notice(36)).unwrap();
        assert_eq!(notice["message"], "36 more lines like the following were left out");
        tracing::subscriber::with_default(Registry::default(), || {
            let span = tracing::info_span!("here");
            let here = span.metadata().unwrap().callsite();
            let written = (0..100).filter(|_| limit.take(here.clone(), 0).0).count();
            assert_eq!(written as u64, BURST);
            assert_eq!(limit.take(here.clone(), 1), (true, 100 - BURST));
            assert_eq!(limit.take(here, 1), (true, 0));
        });
    }
}
