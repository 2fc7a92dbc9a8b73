//! Text on its way to a terminal: what comes from others cannot steer it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Control characters, line and paragraph separators, and the marks that turn the direction of text (UAX 9).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text of others for a table or an error line: what would steer a terminal is written out.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// JSON for people: indented. Characters that would steer a terminal are escaped as JSON has it.
///
/// # Errors
/// Those of the serialiser.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| make_safe(&text))
        .map_err(|error| Failure::Output(error.into()))
}

/// JSON on one line.
///
/// # Errors
/// Those of the serialiser.
pub fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map(|text| make_safe(&text)).map_err(|error| Failure::Output(error.into()))
}

fn make_safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().saturating_add(1));
    for c in text.chars() {
        // What is below 0x20 in a text is escaped already (RFC 8259 section 7); the rest are our own line ends.
        if steers(c) && c != '\n' {
            // All of them are in the basic plane: one unit.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    safe
}

/// # Errors
/// [`Failure::Output`]; a closed pipe too, which ends the command quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(escape("web"), "web");
        assert_eq!(escape("a\x1b[2Jb\nc\u{9b}d\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}");
        assert_eq!(json_line(&"\x1b\u{9b}\u{202e}\u{7f}").unwrap(), "\"\\u001b\\u009b\\u202e\\u007f\"\n");
    }

    proptest! {
        #[test]
        fn json_stays_the_same_value(text: String) {
            let shown = json(&[&text]).unwrap();
            prop_assert!(!shown.contains(|c| steers(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [text.clone()]);
            prop_assert!(!escape(&text).contains(steers));
        }
    }
}
