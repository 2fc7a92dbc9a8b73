//! Tables that read as plain text and as markdown.

use std::fmt::Write;

/// Three significant figures or so.
pub fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A markdown table whose first `left` columns are text and the others numbers; the first row is the head.
pub fn aligned(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0).max(3)
    };
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = if column < left {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for column in 0..columns {
                let dashes = "-".repeat(width(column).saturating_add(1));
                let _ = if column < left { write!(text, "|{dashes}-") } else { write!(text, "|{dashes}:") };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let rows =
            vec![vec!["a".to_owned(), "b".to_owned()], vec!["long name".to_owned(), "12345".to_owned()]];
        let expected = "| a         |     b |\n|-----------|------:|\n| long name | 12345 |\n";
        assert_eq!(aligned(&rows, 1), expected);
    }

    #[test]
    fn numbers_keep_three_figures() {
        assert_eq!([123.4, 12.34, 1.234, 0.1234].map(number), ["123", "12.3", "1.23", "0.123"]);
    }
}
