//! `show stats --watch`: rates again and again, in place on a terminal, one after the other elsewhere.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use crate::cli::Filter;
use crate::client::Client;
use crate::daemon::stats as stats_table;
use crate::failure::Failure;
use crate::output::{json_line, print};
use crate::show::sample;

/// Shows rates until the daemon, the reader or the user ends it.
///
/// # Errors
/// Not reachable; the daemon said no; nobody reads.
pub fn stats(client: &Client, as_json: bool, interval: Duration, filter: &Filter) -> Result<(), Failure> {
    let mut earlier = None;
    let mut first = true;
    loop {
        let mut now = sample(client, filter)?;
        if let Some(earlier) = &earlier {
            now.rates_since(earlier);
        }
        let text = if as_json { json_line(&now)? } else { stats_table(&now) };
        match window().filter(|_| !as_json) {
            Some((rows, columns)) => print(&frame(&text, rows, columns, first))?,
            None if first || as_json => print(&text)?,
            None => print(&format!("\n{text}"))?,
        }
        first = false;
        earlier = Some(now);
        std::thread::sleep(interval);
    }
}

/// Rows and columns of the terminal that standard output is; `None`: it is something else.
fn window() -> Option<(usize, usize)> {
    let out = stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(&out).ok()?;
    // A terminal that does not know its size says 0.
    let or = |size: u16, usual| if size == 0 { usual } else { usize::from(size) };
    Some((or(size.ws_row, 24), or(size.ws_col, 80)))
}

/// One picture: from the home position, every line cleared to its end, the rest of the screen cleared. What does not
/// fit is cut, or the picture would scroll.
fn frame(text: &str, rows: usize, columns: usize, first: bool) -> String {
    let count = text.lines().count();
    let shown = if count > rows { rows.saturating_sub(1) } else { count };
    let mut lines: Vec<String> =
        text.lines().take(shown).map(|line| line.chars().take(columns).collect()).collect();
    if shown < count {
        lines.push(format!("... {} lines more", count.saturating_sub(shown)));
    }
    let clear = if first { "\x1b[2J" } else { "" };
    // No line end after the last: it would scroll a full screen.
    format!("{clear}\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_stays_within_the_window() {
        assert_eq!(frame("ab\ncd\n", 3, 80, true), "\x1b[2J\x1b[Hab\x1b[K\ncd\x1b[K\x1b[J");
        assert_eq!(
            frame("abc\nd\ne\nf\n", 3, 2, false),
            "\x1b[Hab\x1b[K\nd\x1b[K\n... 2 lines more\x1b[K\x1b[J"
        );
        assert_eq!(frame("a\nb\n", 0, 0, false).matches('\n').count(), 0);
    }
}
