//! Text that is not TOML, in words that help whoever wrote it.

use std::ops::Range;

use toml::de::{DeTable, Error};

use super::problem::{Problem, clip};
use super::report::{Reporter, Source};

/// Above this, only the first error of a text that is not TOML is named: the parser's full list may be 200 times as
/// long as the text.
const LIST_BELOW: usize = 64 << 10;

/// How deep tables and arrays may nest; the limit of the `toml` crate.
const DEPTH: usize = 80;

/// Parses the text; what is not TOML is reported, one error a line.
pub(super) fn parse<'t>(text: &'t str, reporter: &mut Reporter<'_>) -> Option<DeTable<'t>> {
    let first = match DeTable::parse(text) {
        Ok(table) => return Some(table.into_inner()),
        Err(first) => first,
    };
    let mut errors = if text.len() < LIST_BELOW { DeTable::parse_recoverable(text).1 } else { vec![first] };
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut last_line = 0;
    for error in errors {
        let span = error.span().unwrap_or_else(|| deepest(text));
        let line = reporter.source.line(span.start);
        if line > last_line {
            last_line = line;
            let (span, message) = explain(&error, span, &reporter.source);
            reporter.add(&span, || Problem::Syntax(message));
        }
    }
    None
}

// The one error without a place: a dotted key of too many parts.
fn deepest(text: &str) -> Range<usize> {
    let mut start = 0usize;
    for line in text.split_inclusive('\n') {
        if line.bytes().filter(|byte| *byte == b'.').count() >= DEPTH {
            return start..start;
        }
        start = start.saturating_add(line.len());
    }
    0..0
}

// The parser's message, or a better one for a mistake that is common, and where it belongs.
fn explain(error: &Error, span: Range<usize>, source: &Source<'_>) -> (Range<usize>, String) {
    let message = error.message();
    let found = source.slice(&span);
    let starts = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
    if message == "duplicate key" {
        let text = duplicate(&clip(found), source.line_text(source.line(span.start)));
        return (span, text);
    }
    if starts(&["cannot recurse", "recursion limit"]) {
        return (span, format!("nested more than {DEPTH} levels deep"));
    }
    if found == ":" && starts(&["invalid unquoted key"]) {
        return (span, "between a key and its value stands `=`".to_owned());
    }
    if message.contains(" string, expected `\"`") || message.contains(" string, expected `'`") {
        return (span, "the text before is not closed by a quote".to_owned());
    }
    let bare = ["string values must be quoted", "invalid boolean"];
    let numeric =
        ["invalid float", "invalid integer", "unexpected leading zero", "invalid date", "invalid time"];
    if starts(&bare) && found.trim().is_empty() {
        return (span, "a value is missing here".to_owned());
    }
    if (starts(&bare) || starts(&numeric))
        && let Some(value) = value_around(&span, source)
    {
        let text = unquoted(source.slice(&value));
        return (value, text);
    }
    (span, message.strip_suffix(", expected nothing").unwrap_or(message).to_owned())
}

fn duplicate(key: &str, line: &str) -> String {
    if line.trim_start().starts_with('[') {
        format!("`{key}` is there already, or once as `[{key}]` and once as `[[{key}]]`")
    } else {
        format!("`{key}` is there already in this table")
    }
}

fn unquoted(value: &str) -> String {
    let shown = clip(value.trim_matches(['“', '”', '‘', '’', '\'', '"']));
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => format!("`{shown}` is no value: write `true`, or \"{shown}\" for a text"),
        "false" | "no" | "off" => format!("`{shown}` is no value: write `false`, or \"{shown}\" for a text"),
        _ => format!("a text stands in quotes: write \"{shown}\""),
    }
}

// The parser may give up in the middle of a bare value (10.1|.0.0/24): all of it, as far as no value ever reaches.
fn value_around(span: &Range<usize>, source: &Source<'_>) -> Option<Range<usize>> {
    const ENDS: [char; 8] = [' ', '\t', '=', ',', '[', ']', '{', '}'];
    let line = source.line_span(source.line(span.start));
    let before = source.slice(&(line.start..span.start));
    let after = source.slice(&(span.start..line.end));
    let start =
        before.char_indices().rev().find(|(_, c)| ENDS.contains(c)).map_or(0, |(at, c)| at + c.len_utf8());
    let length = after.find(|c| ENDS.contains(&c) || c == '#').unwrap_or(after.len());
    let value = line.start.saturating_add(start)..span.start.saturating_add(length);
    (!source.slice(&value).is_empty()).then_some(value)
}
