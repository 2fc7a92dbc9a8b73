//! 64-byte UDP frames: what arrives, what is lost, what it costs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{Figure, MARGIN};
use crate::error::Result;
use crate::load::udp::{Received, Sent};
use crate::meter::{self, Machine};
use crate::race::peers::answer;
use crate::race::peers::lab::{Lab, Service, Way};
use crate::race::stats;

/// What "without loss" allows.
const LOSS: f64 = 0.001;
/// A sender that reaches less of the rate asked for has not sent that rate.
const REACHED: f64 = 0.95;
/// The rate of the loss figure.
const LOSS_RATE: u64 = 40_000;
/// The rate of the CPU figure: what every peer carries without loss.
const CPU_RATE: u64 = 20_000;
/// One step of the search.
const STEP: Duration = Duration::from_millis(600);
/// A step must fail this often: a hiccup of the machine of a few milliseconds is a loss too.
const TRIES: usize = 2;

/// Frames of one step are told from the stragglers of an earlier one.
static TAG: AtomicU32 = AtomicU32::new(1);

/// What became of one step's frames, and what it cost.
struct Step {
    sent: Sent,
    received: u64,
    /// CPU time of the switch's processes; `None` if it has none.
    switch: Option<Duration>,
    /// CPU time of the whole machine.
    machine: Duration,
}

impl Step {
    /// Sends at `rate` (0: full blast) for `time`.
    fn run(lab: &Lab, rate: u64, time: Duration) -> Result<Self> {
        let tag = TAG.fetch_add(1, Ordering::Relaxed).to_string();
        let path = lab.path(Way::Main)?;
        let (mut receiver, to) = path.server(Service::Receive, &["--tag", &tag])?;
        let (to, rate, seconds) = (to.to_string(), rate.to_string(), time.as_secs_f64().to_string());
        let args = ["udp-send", "--to", &to, "--tag", &tag, "--rate", &rate, "--seconds", &seconds];
        let pids = lab.switch_pids();
        let cpu = || if pids.is_empty() { Ok(None) } else { meter::process_cpu(&pids).map(Some) };
        let (switch, machine) = (cpu()?, Machine::now()?);
        let sent = path.client(&args, time.saturating_add(MARGIN))?;
        let (machine, after) = (Machine::now()?.busy_since(&machine), cpu()?);
        receiver.close_stdin();
        let Received { received } = answer("a load", &receiver.finish(MARGIN)?)?;
        let switch = after.zip(switch).map(|(after, before)| after.saturating_sub(before));
        Ok(Self { sent, received, switch, machine })
    }

    fn loss(&self) -> f64 {
        1.0 - self.received as f64 / (self.sent.sent as f64).max(1.0)
    }

    fn per_second(&self) -> f64 {
        self.received as f64 / self.sent.seconds
    }

    fn micros_per_packet(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / (self.received as f64).max(1.0)
    }
}

/// kpps at the highest rate with less than 0.1 % lost.
pub(super) fn highest(lab: &Lab, time: Duration) -> Result<f64> {
    let time = time.min(STEP);
    let blast = Step::run(lab, 0, time)?;
    if blast.loss() < LOSS {
        // The sender is the limit.
        return Ok(blast.per_second() / 1e3);
    }
    let offered = (blast.sent.sent as f64 / blast.sent.seconds) as u64;
    let passes = |rate: u64| {
        for _ in 0..TRIES {
            let step = Step::run(lab, rate, time)?;
            if step.loss() < LOSS && step.per_second() >= REACHED * rate as f64 {
                return Ok(Some(step.per_second()));
            }
        }
        Ok(None)
    };
    stats::highest(0, offered, passes).map(|rate| rate / 1e3)
}

/// kpps that arrive of all that one sender can send.
pub(super) fn flood(lab: &Lab, time: Duration) -> Result<f64> {
    Ok(Step::run(lab, 0, time)?.per_second() / 1e3)
}

/// Per cent lost at a rate that everyone should carry.
pub(super) fn loss(lab: &Lab, time: Duration) -> Result<f64> {
    Ok(Step::run(lab, LOSS_RATE, time)?.loss().max(0.0) * 100.0)
}

/// CPU time per packet at a fixed rate: of the switch's processes, and of the machine with both containers in it, which
/// is the only one that shows what a kernel bridge does in softirqs.
pub(super) fn cpu(lab: &Lab, time: Duration) -> Result<Vec<(Figure, f64)>> {
    let step = Step::run(lab, CPU_RATE, time)?;
    let machine = (Figure::CpuMachine, step.micros_per_packet(step.machine));
    let switch = step.switch.map(|cpu| (Figure::CpuSwitch, step.micros_per_packet(cpu)));
    Ok(switch.into_iter().chain([machine]).collect())
}
