//! Errors with their place: `FILE:LINE:COLUMN: error: MESSAGE`, then the line and a caret.

use std::fmt;
use std::ops::Range;

use super::problem::{Place, Problem};

/// How many errors one run names; the rest is counted.
pub const MAX_ERRORS: usize = 20;

/// Everything that is wrong with a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    more: usize,
}

impl ConfigErrors {
    /// The errors, at least one and at most [`MAX_ERRORS`].
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many there are beyond those.
    pub fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}\n{}", error.first_line(), error.excerpt)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One error and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: Problem,
    /// The line of the file and a caret under it, as three lines without a final newline.
    pub excerpt: String,
}

impl ConfigError {
    /// `FILE:LINE:COLUMN: error: MESSAGE`.
    pub fn first_line(&self) -> String {
        format!("{}:{}:{}: error: {}", self.file, self.line, self.column, self.problem)
    }
}

/// A value and where it stands, in bytes from the start of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

impl<T> At<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span }
    }
}

/// A text whose offsets are lines and columns too.
#[derive(Debug)]
pub(super) struct Source<'t> {
    name: String,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub fn new(name: &str, text: &'t str) -> Self {
        // A byte order mark is no column of the first line.
        let first = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let later = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { name: name.to_owned(), text, starts: std::iter::once(first).chain(later).collect() }
    }

    /// The line of an offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    pub fn place(&self, span: &Range<usize>) -> Place {
        Place(Some(self.line(span.start)))
    }

    /// The text of a span; empty where there is none.
    pub fn slice(&self, span: &Range<usize>) -> &'t str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// Where a line is, without its end.
    pub fn line_span(&self, line: usize) -> Range<usize> {
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let rest = self.text.get(start..).unwrap_or_default();
        let text = rest.split('\n').next().unwrap_or_default();
        start..start.saturating_add(text.strip_suffix('\r').unwrap_or(text).len())
    }

    /// The text of a line, without its end.
    pub fn line_text(&self, line: usize) -> &'t str {
        self.slice(&self.line_span(line))
    }

    fn locate(&self, span: &Range<usize>, problem: Problem) -> ConfigError {
        let line = self.line(span.start);
        let (start, text) = (self.line_span(line).start, self.line_text(line));
        let before = |offset: usize| {
            let bytes = offset.saturating_sub(start);
            text.char_indices().take_while(|(at, _)| *at < bytes).count()
        };
        let column = before(span.start).saturating_add(1);
        let width = before(span.end).saturating_sub(before(span.start)).max(1);
        let excerpt = excerpt(line, text, column, width);
        ConfigError { file: clip_name(&self.name), line, column, problem, excerpt }
    }
}

// A name with a newline must not make two lines of one.
fn clip_name(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

// The line as a window around the column, so that a line of a megabyte stays a line.
fn excerpt(line: usize, text: &str, column: usize, width: usize) -> String {
    const SHOWN: usize = 100;
    const BEFORE: usize = 60;
    let skipped = column.saturating_sub(BEFORE);
    let shown: String =
        text.chars().skip(skipped).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let room = shown.chars().count().saturating_add(skipped).saturating_add(1).saturating_sub(column);
    let gutter = line.to_string();
    let pad = " ".repeat(gutter.len());
    let indent = " ".repeat(column.saturating_sub(skipped).saturating_sub(1));
    let caret = "^".repeat(width.min(room).max(1));
    format!("{pad} |\n{gutter} | {}\n{pad} | {indent}{caret}", shown.trim_end())
}

/// Collects what is wrong, so that one run names it all.
#[derive(Debug)]
pub(super) struct Reporter<'t> {
    pub source: Source<'t>,
    errors: Vec<(Range<usize>, Problem)>,
    more: usize,
}

impl<'t> Reporter<'t> {
    pub fn new(name: &str, text: &'t str) -> Self {
        Self { source: Source::new(name, text), errors: Vec::new(), more: 0 }
    }

    /// Notes an error. `problem` is only asked for while there is room, since it may cost something.
    pub fn add(&mut self, span: &Range<usize>, problem: impl FnOnce() -> Problem) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push((span.clone(), problem()));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The value, or a note of what is wrong with it.
    pub fn check<T>(&mut self, span: &Range<usize>, checked: Result<T, Problem>) -> Option<T> {
        checked.map_err(|problem| self.add(span, || problem)).ok()
    }

    /// The errors in the order of the file, if there are any.
    pub fn finish(mut self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(());
        }
        self.errors.sort_by_key(|(span, _)| (span.start, span.end));
        let errors =
            self.errors.into_iter().map(|(span, problem)| self.source.locate(&span, problem)).collect();
        Err(ConfigErrors { errors, more: self.more })
    }
}

/// The one error of a text that is no text.
pub(super) fn single(name: &str, text: &str, span: Range<usize>, problem: Problem) -> ConfigErrors {
    let error = Source::new(name, text).locate(&span, problem);
    ConfigErrors { errors: vec![error], more: 0 }
}
