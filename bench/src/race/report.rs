//! The report: what was measured, as tables and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::bars::{self, Bar};
use super::figures::Figure;
use super::peers::Peer;
use super::scenario::Scenario;
use super::stats::median;
use super::table::{aligned, number};

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
    /// What was raced over.
    pub scenario: Scenario,
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
    /// `ratio_to_PEER`.
    #[serde(flatten)]
    ratios: BTreeMap<String, Option<f64>>,
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

    /// Median of the ratios within each round: what makes the whole machine slow for a while cancels out. To several
    /// peers it is to the best of each round.
    fn ratio(&self, peer: Peer, to: &[Peer], figure: Figure) -> Option<f64> {
        if !figure.has_ratio() {
            return None;
        }
        let others: Vec<_> = to.iter().map(|other| self.rounds(*other, figure)).collect();
        let best = |round: usize| {
            let bases =
                others.iter().filter_map(|other| other.get(&round).copied()).filter(|base| *base > 0.0);
            bases.reduce(if figure.more_is_better() { f64::max } else { f64::min })
        };
        let pairs =
            self.rounds(peer, figure).into_iter().filter_map(|(round, value)| Some(value / best(round)?));
        median(&pairs.collect::<Vec<_>>())
    }

    /// What a bar is held against, and whether it is met; `None`: it could not be judged.
    fn judge(&self, bar: &Bar) -> (Option<f64>, Option<bool>) {
        let value = match bar.to {
            [] => self.median(Peer::Vswitchd, bar.figure),
            // The best of some of them might not be the best of all.
            peers if peers.iter().any(|peer| self.median(*peer, bar.figure).is_none()) => None,
            peers => self.ratio(Peer::Vswitchd, peers, bar.figure),
        };
        (value, value.map(|value| bar.bound.allows(value)))
    }

    /// The bars of the scenario for what was measured.
    fn bars(&self) -> impl Iterator<Item = &'static Bar> + '_ {
        let measured = |bar: &&Bar| self.samples.iter().any(|sample| sample.figure == bar.figure);
        bars::of(self.scenario).iter().filter(measured)
    }

    /// Bars that are missed or could not be judged.
    pub fn unmet(&self) -> usize {
        self.bars().filter(|bar| self.judge(bar).1 != Some(true)).count()
    }

    fn bars_table(&self) -> String {
        let mut rows = vec![["figure", "bar", "verdict", "figure is"].map(str::to_owned).to_vec()];
        rows.extend(self.bars().map(|bar| {
            let (value, met) = self.judge(bar);
            let value = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            vec![bar.figure.words().1.to_owned(), bar.words(), bars::verdict(met).to_owned(), value]
        }));
        aligned(&rows, 3)
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = self.head();
        text.push_str("\n\nMedians\n\n");
        text.push_str(&self.table(|peer, figure| self.median(peer, figure), number));
        for (to, title) in self.scenario.baselines() {
            if self.peers.contains(to) {
                let ratio = |peer, figure| self.ratio(peer, &[*to], figure);
                let ratios = self.table(ratio, |ratio| format!("{ratio:.2}"));
                let _ =
                    write!(text, "\nRatios to {title} (medians of the ratios within each round)\n\n{ratios}");
            }
        }
        if self.bars().next().is_some() {
            let _ = write!(text, "\nWhat vswitchd must show (ratios as above)\n\n{}", self.bars_table());
        }
        text.push('\n');
        for peer in &self.peers {
            let _ = writeln!(text, "- {}: {}", peer.name(), peer.setup(self.scenario));
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
             UDP-64 is a 64-byte Ethernet frame, {udp64_payload} bytes of payload. {}",
            self.scenario.note()
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
        let setup: BTreeMap<&str, &str> =
            self.peers.iter().map(|peer| (peer.name(), peer.setup(self.scenario))).collect();
        let bars: Vec<_> = self
            .bars()
            .map(|bar| {
                let (value, met) = self.judge(bar);
                serde_json::json!({"figure": bar.figure.words().0, "bar": bar.words(), "value": value, "met": met})
            })
            .collect();
        serde_json::json!({
            "scenario": self.scenario.name(), "conditions": self.conditions, "setup": setup, "missing": missing,
            "notes": self.notes, "figures": figures, "bars": bars,
        })
    }

    fn cell(&self, peer: Peer, figure: Figure) -> Option<Cell> {
        Some(Cell {
            median: self.median(peer, figure)?,
            ratios: self
                .scenario
                .baselines()
                .iter()
                .map(|(to, _)| {
                    (format!("ratio_to_{}", to.name().replace('-', "_")), self.ratio(peer, &[*to], figure))
                })
                .collect(),
            samples: self.rounds(peer, figure).into_values().collect(),
        })
    }
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
            scenario: Scenario::L2,
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
        assert_eq!(report.ratio(Peer::Relay, &[Peer::Kernel], Figure::Tcp), Some(0.5));
        assert_eq!(report.ratio(Peer::Vde, &[Peer::Kernel], Figure::Tcp), None);
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

    /// One way out against the others, in two rounds.
    fn egress(figure: Figure, values: &[(Peer, [f64; 2])]) -> Report {
        let samples = values.iter().flat_map(|(peer, values)| {
            values.iter().enumerate().map(|(round, value)| Sample {
                peer: *peer,
                figure,
                round,
                value: *value,
            })
        });
        let peers = values.iter().map(|(peer, _)| *peer).collect();
        Report { scenario: Scenario::Egress, peers, missing: vec![], samples: samples.collect(), ..report() }
    }

    #[test]
    fn the_better_of_several_is_that_of_each_round() {
        let values =
            [(Peer::Vswitchd, [16.0, 16.0]), (Peer::Pasta1500, [1.0, 4.0]), (Peer::Slirp1500, [2.0, 2.0])];
        let to = [Peer::Pasta1500, Peer::Slirp1500];
        assert_eq!(egress(Figure::TcpUp, &values).ratio(Peer::Vswitchd, &to, Figure::TcpUp), Some(6.0));
        // Where less is better, the least is the best: 16 and 8.
        assert_eq!(
            egress(Figure::RoundTripP50, &values).ratio(Peer::Vswitchd, &to, Figure::RoundTripP50),
            Some(12.0)
        );
    }

    #[test]
    fn bars_are_met_missed_or_not_judged() {
        let report = egress(Figure::TcpUp, &[(Peer::Vswitchd, [9.0, 9.0]), (Peer::Kernel, [10.0, 10.0])]);
        let text = report.text();
        let line = |words: &str| text.lines().find(|line| line.contains(words)).unwrap_or_default();
        assert!(line(">= 0.80 of kernel").contains("| met "), "{text}");
        assert!(line(">= 8.00 of the best of").contains("| not judged "), "{text}");
        assert!(!text.contains("connects"), "not measured, not listed: {text}");
        assert_eq!(report.unmet(), 1);
        let slow = egress(Figure::TcpUp, &[(Peer::Vswitchd, [7.0, 7.0]), (Peer::Kernel, [10.0, 10.0])]);
        assert_eq!(slow.unmet(), 2);
        assert_eq!(slow.json()["bars"][0]["met"], false);
    }
}
