//! A requirement, and what became of it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{ipv4, ipv6, nat_icmp, nat_tcp, nat_udp};

/// RFC 2119; or what trusted implementations do where no RFC says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Must,
    Should,
    Practice,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Practice => "practice",
        })
    }
}

/// What a check says that did not panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passes,
    /// It does, by a choice where norm and practice differ or norms differ: which and why.
    Chosen(&'static str),
    /// Another thing is done, and asserted: why.
    Differs(&'static str),
    /// There is nothing that it could be true of: why.
    NotApplicable(&'static str),
}

/// A requirement.
pub struct Row {
    pub id: &'static str,
    pub level: Level,
    pub requirement: &'static str,
    pub section: &'static str,
    pub check: fn() -> Outcome,
}

/// What is printed of it.
pub struct Line {
    pub result: &'static str,
    pub reason: String,
    pub good: bool,
}

impl Row {
    pub fn judge(&self) -> Line {
        let line = |result, reason: &str, good| Line { result, reason: reason.to_owned(), good };
        match catch_unwind(AssertUnwindSafe(self.check)) {
            Ok(Outcome::Passes) => line("passes", "", true),
            Ok(Outcome::Chosen(why)) => line("passes", why, true),
            // Every MUST is met.
            Ok(Outcome::Differs(why)) => line("differs", why, self.level != Level::Must),
            Ok(Outcome::NotApplicable(why)) => line("not applicable", why, true),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                line("fails", text.unwrap_or("without a word"), false)
            }
        }
    }
}

/// All rows of a section are as they should be.
#[track_caller]
pub fn assert_all(rows: &[Row]) {
    let bad: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let line = row.judge();
            (!line.good).then(|| format!("{} {} {}: {}", row.id, row.level, line.result, line.reason))
        })
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn all() -> impl Iterator<Item = &'static Row> {
    [nat_udp::ROWS, nat_tcp::ROWS, nat_icmp::ROWS, ipv4::ROWS, ipv6::ROWS].into_iter().flatten()
}

#[test]
fn table() {
    let lines: Vec<[String; 5]> = all()
        .map(|row| {
            let Line { result, reason, .. } = row.judge();
            let level = row.level.to_string();
            let requirement = format!("{} ({})", row.requirement, row.section);
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            [row.id.to_owned(), level, requirement, result.to_owned(), reason]
        })
        .collect();
    let head = ["ID", "LEVEL", "REQUIREMENT", "RESULT", "REASON"].map(str::to_owned);
    let widths: [usize; 5] = std::array::from_fn(|column| {
        lines.iter().chain([&head]).map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    for line in [&head].into_iter().chain(&lines) {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for level in [Level::Must, Level::Should, Level::Practice] {
        let of = |result: &str| lines.iter().filter(|l| l[1] == level.to_string() && l[3] == result).count();
        let counts = ["passes", "differs", "not applicable", "fails"].map(|word| (of(word), word));
        let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
        println!("{level}: {}", counts.collect::<Vec<_>>().join(", "));
    }
    let ids: std::collections::BTreeSet<_> = all().map(|row| row.id).collect();
    assert_eq!(ids.len(), lines.len(), "an id is there twice");
}
