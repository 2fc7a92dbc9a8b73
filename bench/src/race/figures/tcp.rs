//! TCP throughput by iperf3, as its receiver counts it.

use std::time::Duration;

use serde::Deserialize;

use super::MARGIN;
use crate::error::Result;
use crate::ns::CONGESTION_CONTROL;
use crate::race::peers::lab::{Path, Service};
use crate::race::peers::{answer, words};

/// The part of `iperf3 -J` that matters.
#[derive(Debug, Deserialize)]
struct Report {
    end: End,
}

#[derive(Debug, Deserialize)]
struct End {
    sum_received: Sum,
    sum_received_bidir_reverse: Option<Sum>,
}

#[derive(Debug, Deserialize)]
struct Sum {
    bits_per_second: f64,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The client.
    Forth,
    /// The server.
    Back,
    /// Both, summed.
    Both,
}

/// Gbit/s of one stream, or the sum of one each way.
pub(super) fn stream(path: &Path<'_>, time: Duration, direction: Direction) -> Result<f64> {
    let _server = path.iperf_server()?;
    let (to, port) = (path.ends.to.to_string(), Service::Iperf.port().to_string());
    let seconds = time.as_secs().max(1).to_string();
    let mut client =
        words(&["iperf3", "-c", &to, "-p", &port, "-t", &seconds, "-C", CONGESTION_CONTROL, "-J"]);
    match direction {
        Direction::Forth => {}
        Direction::Back => client.push("--reverse".into()),
        Direction::Both => client.push("--bidir".into()),
    }
    let text = path.start_client(&client)?.finish(time.saturating_add(MARGIN))?;
    received(&text)
}

fn received(text: &str) -> Result<f64> {
    let report: Report = answer("iperf3", text)?;
    let back = report.end.sum_received_bidir_reverse.map_or(0.0, |sum| sum.bits_per_second);
    Ok((report.end.sum_received.bits_per_second + back) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_summed() {
        let one = r#"{"start":{},"end":{"sum_sent":{"bits_per_second":9e9},"sum_received":{"bits_per_second":2e9}}}"#;
        assert_eq!(received(one).unwrap(), 2.0);
        let two = r#"{"end":{"sum_received":{"bits_per_second":2e9},"sum_received_bidir_reverse":{"bits_per_second":1e9}}}"#;
        assert_eq!(received(two).unwrap(), 3.0);
        let error = received(r#"{"error":"unable to connect"}"#).unwrap_err().to_string();
        assert!(error.contains("iperf3") && error.contains("unable to connect"), "{error}");
    }
}
