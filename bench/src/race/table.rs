//! The report: tables that read as plain text and as markdown, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::figures::Figure;
use super::peers::Peer;
use super::stats::median;

/// One value of one peer in one round.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Whose.
    pub peer: Peer,
    /// Of what.
    pub figure: Figure,
    /// When.
    pub round: usize,
    /// How much.
    pub value: f64,
}

/// Everything that was measured, and under what conditions.
#[derive(Debug)]
pub struct Report {
    /// What the reader must know to compare.
    pub conditions: Conditions,
    /// Who took part.
    pub peers: Vec<Peer>,
    /// Who did not, and why.
    pub missing: Vec<(Peer, String)>,
    /// What went wrong on the way.
    pub notes: Vec<String>,
    /// The values.
    pub samples: Vec<Sample>,
}

/// Where and how it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// Kernel release.
    pub kernel: String,
    /// CPUs.
    pub cpus: u32,
    /// What they call themselves.
    pub cpu_model: String,
    /// Rounds.
    pub rounds: usize,
    /// Seconds per load.
    pub seconds: u64,
    /// Of every interface.
    pub mtu: u32,
    /// Of every namespace.
    pub congestion_control: &'static str,
    /// UDP payload of a "64-byte" frame.
    pub udp64_payload: usize,
}

/// One figure of one peer in JSON.
#[derive(Debug, Serialize)]
struct Cell {
    median: f64,
    ratio_to_kernel: Option<f64>,
    ratio_to_relay: Option<f64>,
    samples: Vec<f64>,
}

impl Report {
    /// Values of one figure of one peer, by round.
    fn rounds(&self, peer: Peer, figure: Figure) -> BTreeMap<usize, f64> {
        let wanted = self.samples.iter().filter(|sample| sample.peer == peer && sample.figure == figure);
        wanted.map(|sample| (sample.round, sample.value)).collect()
    }

    fn median(&self, peer: Peer, figure: Figure) -> Option<f64> {
        median(&self.rounds(peer, figure).into_values().collect::<Vec<_>>())
    }

    /// Median of the ratios within each round: what makes the whole machine slow for a while cancels out.
    fn ratio(&self, peer: Peer, to: Peer, figure: Figure) -> Option<f64> {
        if !figure.has_ratio() {
            return None;
        }
        let other = self.rounds(to, figure);
        let pairs = self.rounds(peer, figure).into_iter().filter_map(|(round, value)| {
            let base = other.get(&round).copied().filter(|base| *base > 0.0)?;
            Some(value / base)
        });
        median(&pairs.collect::<Vec<_>>())
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = self.head();
        text.push_str("\n\nMedians\n\n");
        text.push_str(&self.table(|peer, figure| self.median(peer, figure), number));
        for (to, title) in [(Peer::Kernel, "the kernel bridge"), (Peer::Relay, "the bare relay")] {
            if self.peers.contains(&to) {
                let ratios =
                    self.table(|peer, figure| self.ratio(peer, to, figure), |ratio| format!("{ratio:.2}"));
                let _ =
                    write!(text, "\nRatios to {title} (medians of the ratios within each round)\n\n{ratios}");
            }
        }
        text.push('\n');
        for peer in &self.peers {
            let _ = writeln!(text, "- {}: {}", peer.name(), peer.setup());
        }
        for (peer, reason) in &self.missing {
            let _ = writeln!(text, "- missing: {}: {reason}", peer.name());
        }
        for note in &self.notes {
            let _ = writeln!(text, "- note: {note}");
        }
        text
    }

    fn head(&self) -> String {
        let Conditions { kernel, cpus, cpu_model, rounds, seconds, mtu, congestion_control, udp64_payload } =
            &self.conditions;
        format!(
            "Linux {kernel}, {cpus} CPUs ({cpu_model}), MTU {mtu}, {congestion_control}, rounds: {rounds}, seconds a load: {seconds}.\n\
             UDP-64 is a 64-byte Ethernet frame, {udp64_payload} bytes of payload. CPU of the machine counts both containers too;\n\
             the kernel bridge works in softirqs, which belong to no process, so it has no CPU, memory or idle figure of its own."
        )
    }

    fn table(&self, value: impl Fn(Peer, Figure) -> Option<f64>, show: impl Fn(f64) -> String) -> String {
        let mut rows = vec![["figure", "unit", "better"].map(str::to_owned).to_vec()];
        rows.iter_mut().for_each(|head| head.extend(self.peers.iter().map(|peer| peer.name().to_owned())));
        for figure in Figure::ALL {
            let values: Vec<Option<f64>> = self.peers.iter().map(|peer| value(*peer, figure)).collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            let (_, title, unit) = figure.words();
            let better = if figure.more_is_better() { "more" } else { "less" };
            let mut row = [title, unit, better].map(str::to_owned).to_vec();
            row.extend(values.into_iter().map(|value| value.map_or_else(|| "-".to_owned(), &show)));
            rows.push(row);
        }
        aligned(&rows, 3)
    }

    /// The report as JSON.
    pub fn json(&self) -> serde_json::Value {
        let figures: Vec<_> = Figure::ALL
            .into_iter()
            .map(|figure| {
                let cells: BTreeMap<&str, Cell> =
                    self.peers.iter().filter_map(|peer| Some((peer.name(), self.cell(*peer, figure)?))).collect();
                let (name, title, unit) = figure.words();
                let better = if figure.more_is_better() { "more" } else { "less" };
                serde_json::json!({"figure": name, "title": title, "unit": unit, "better": better, "peers": cells})
            })
            .collect();
        let missing: BTreeMap<&str, &str> =
            self.missing.iter().map(|(peer, reason)| (peer.name(), reason.as_str())).collect();
        let setup: BTreeMap<&str, &str> = self.peers.iter().map(|peer| (peer.name(), peer.setup())).collect();
        serde_json::json!({
            "scenario": "l2", "conditions": self.conditions, "setup": setup, "missing": missing,
            "notes": self.notes, "figures": figures,
        })
    }

    fn cell(&self, peer: Peer, figure: Figure) -> Option<Cell> {
        Some(Cell {
            median: self.median(peer, figure)?,
            ratio_to_kernel: self.ratio(peer, Peer::Kernel, figure),
            ratio_to_relay: self.ratio(peer, Peer::Relay, figure),
            samples: self.rounds(peer, figure).into_values().collect(),
        })
    }
}

/// Three significant figures or so.
fn number(value: f64) -> String {
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

    fn report() -> Report {
        let sample = |peer, round, value| Sample { peer, figure: Figure::Tcp, round, value };
        let conditions = Conditions {
            kernel: "6.1".into(),
            cpus: 2,
            cpu_model: "test".into(),
            rounds: 3,
            seconds: 1,
            mtu: 1500,
            congestion_control: "cubic",
            udp64_payload: 18,
        };
        Report {
            conditions,
            peers: vec![Peer::Kernel, Peer::Relay],
            missing: vec![(Peer::Vde, "vde_switch not installed".into())],
            notes: vec![],
            // The machine was slow in round 1: the ratio does not see it.
            samples: vec![
                sample(Peer::Kernel, 0, 20.0),
                sample(Peer::Relay, 0, 10.0),
                sample(Peer::Kernel, 1, 2.0),
                sample(Peer::Relay, 1, 1.0),
                sample(Peer::Kernel, 2, 20.0),
                sample(Peer::Relay, 2, 10.0),
            ],
        }
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let report = report();
        assert_eq!(report.median(Peer::Relay, Figure::Tcp), Some(10.0));
        assert_eq!(report.ratio(Peer::Relay, Peer::Kernel, Figure::Tcp), Some(0.5));
        assert_eq!(report.ratio(Peer::Vde, Peer::Kernel, Figure::Tcp), None);
    }

    #[test]
    fn the_text_names_what_is_missing_and_leaves_out_empty_rows() {
        let text = report().text();
        assert!(text.contains("missing: vde: vde_switch not installed"), "{text}");
        assert!(text.contains("| TCP, one stream | Gbit/s | more   |   20.0 |  10.0 |"), "{text}");
        assert!(!text.contains("connects"), "{text}");
        assert!(text.contains("Ratios to the bare relay"), "{text}");
    }

    #[test]
    fn the_json_has_every_sample() {
        let json = report().json();
        let relay = &json["figures"][0]["peers"]["relay"];
        assert_eq!(relay["samples"].as_array().map(Vec::len), Some(3));
        assert_eq!(relay["ratio_to_kernel"], 0.5);
        assert_eq!(json["missing"]["vde"], "vde_switch not installed");
    }

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
