//! What commands say, in the log.

use std::time::{Duration, Instant};

use crate::logging;

/// Longest line of the log, bytes; a longer one is broken.
const LINE: usize = 4096;
const LINES_PER_SECOND: u32 = 100;

/// Turns output into lines of the log, at most [`LINES_PER_SECOND`].
#[derive(Debug, Default)]
pub(super) struct LineLog {
    line: Vec<u8>,
    second: Option<Instant>,
    shown: u32,
    hidden: u64,
}

impl LineLog {
    pub(super) fn push(&mut self, container: &str, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            if byte == b'\n' || self.line.len() >= LINE {
                self.show(container, Instant::now());
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    /// No more will come.
    pub(super) fn finish(&mut self, container: &str) {
        if !self.line.is_empty() {
            self.show(container, Instant::now());
        }
        self.tell_hidden(container);
    }

    fn show(&mut self, container: &str, now: Instant) {
        let line = printable(&std::mem::take(&mut self.line));
        if self.admit(container, now) {
            tracing::info!(target: logging::COMMAND, container, "{line}");
        }
    }

    /// Whether one more line may be shown.
    fn admit(&mut self, container: &str, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.shown = 0;
            self.tell_hidden(container);
        }
        let admitted = self.shown < LINES_PER_SECOND;
        if admitted {
            self.shown = self.shown.saturating_add(1);
        } else {
            self.hidden = self.hidden.saturating_add(1);
        }
        admitted
    }

    fn tell_hidden(&mut self, container: &str) {
        if self.hidden > 0 {
            tracing::warn!(target: logging::COMMAND, container, lines = self.hidden, "output not shown: too much of it");
            self.hidden = 0;
        }
    }
}

/// Text that cannot play with a terminal or feign a line of the log.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_suffix('\r').unwrap_or(&text);
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_not_shown() {
        let mut log = LineLog::default();
        let start = Instant::now();
        let shown = (0..250).filter(|_| log.admit("web", start)).count();
        assert_eq!((shown, log.hidden), (100, 150));
        assert!(log.admit("web", start + Duration::from_secs(1)));
        assert_eq!(log.hidden, 0);
    }

    #[test]
    fn lines_are_bounded_and_harmless() {
        let mut log = LineLog::default();
        log.push("web", &vec![b'x'; 3 * LINE]);
        assert!(log.line.len() <= LINE);
        assert_eq!(printable(b"a\x1b[2Jb\tc\r"), "a\u{fffd}[2Jb\tc");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }
}
