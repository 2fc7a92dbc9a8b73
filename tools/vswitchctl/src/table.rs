//! Aligned columns, no borders, one row a line; the header always. No cell is empty and, but for the last, none has
//! spaces, so `awk` reads it too.

use std::fmt;

use crate::output::escape;

/// A column: its header, and whether it holds numbers.
pub struct Column(&'static str, bool);

/// A column of words: left.
pub const fn words(header: &'static str) -> Column {
    Column(header, false)
}

/// A column of numbers: right.
pub const fn number(header: &'static str) -> Column {
    Column(header, true)
}

/// A table of `N` columns.
pub struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// The cells of `rows` may be anything: they are made safe here.
    pub fn new(columns: [Column; N], rows: impl IntoIterator<Item = [String; N]>) -> Self {
        let rows = rows.into_iter().map(|row| row.map(|cell| make_cell(&cell))).collect();
        Self { columns, rows }
    }
}

fn make_cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { escape(text).into_owned() }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0_usize; N];
        let header = self.columns.each_ref().map(|column| column.0);
        let lines = self.rows.iter().map(|row| row.each_ref().map(String::as_str));
        for line in std::iter::once(header).chain(lines.clone()) {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in std::iter::once(header).chain(lines) {
            text.clear();
            for ((cell, width), column) in line.iter().zip(widths).zip(&self.columns) {
                text.push_str(&if column.1 { format!("{cell:>width$} ") } else { format!("{cell:width$} ") });
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Words and what they are, a line each.
pub fn list<'a>(entries: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<_> = entries.into_iter().map(|(name, value)| (name, make_cell(&value))).collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    entries.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A number to three digits and a unit: 999, 1.23k, 24.9G.
pub fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1_000_000_000_000_000_000, "E"),
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    for (unit, name) in UNITS {
        if number >= unit {
            let whole = number / unit;
            let hundredths = (number % unit) / (unit / 100).max(1);
            return match whole {
                0..10 => format!("{whole}.{hundredths:02}{name}"),
                10..100 => format!("{whole}.{}{name}", hundredths / 10),
                _ => format!("{whole}{name}"),
            };
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [
            ["1".to_owned(), "web".to_owned(), String::new()],
            ["4096".to_owned(), "a".to_owned(), "x\ny".to_owned()],
        ];
        let table = Table::new([number("PORT"), words("CONTAINER"), words("REASON")], rows);
        assert_eq!(table.to_string(), "PORT CONTAINER REASON\n   1 web       -\n4096 a         x\\ny\n");
        let empty = Table::new([number("PORT"), words("CONTAINER")], []);
        assert_eq!(empty.to_string(), "PORT CONTAINER\n");
    }

    #[test]
    fn short_numbers() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00k"),
            (1_239, "1.23k"),
            (99_999, "99.9k"),
            (999_999, "999k"),
            (24_900_000_000, "24.9G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
