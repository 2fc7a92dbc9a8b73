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
            let message = explain(&error, &span, &reporter.source);
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

fn explain(error: &Error, span: &Range<usize>, source: &Source<'_>) -> String {
    let message = error.message();
    let found = source.slice(span).trim_matches(['“', '”', '‘', '’', '\'', '"']);
    let line = source.line_text(source.line(span.start)).trim();
    if message.starts_with("string values must be quoted") {
        return if found.trim().is_empty() {
            "a value is missing here".to_owned()
        } else {
            format!("text stands in quotes: write \"{}\"", clip(found))
        };
    }
    if message.starts_with("invalid boolean") {
        return format!("`{}` is no value: write `true`, `false` or text in quotes", clip(found));
    }
    if message == "duplicate key" {
        let key = clip(source.slice(span));
        return if line.starts_with('[') {
            format!("`{key}` is there already, or once as `[{key}]` and once as `[[{key}]]`")
        } else {
            format!("`{key}` is there already in this table")
        };
    }
    if message.starts_with("cannot recurse") || message.starts_with("recursion limit") {
        return format!("nested more than {DEPTH} levels deep");
    }
    let message = message.strip_suffix(", expected nothing").unwrap_or(message);
    let number =
        ["invalid float", "invalid integer", "unexpected leading zero", "invalid date", "invalid time"];
    if number.iter().any(|start| message.starts_with(start)) {
        return format!("{message}; text and addresses stand in quotes: `ip = \"10.1.0.10\"`");
    }
    message.to_owned()
}
