//! Medians and percentiles.

/// The middle of the values, or the mean of the two in the middle; `None` without any.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = sorted.get(half).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted.get(half.checked_sub(1)?).copied()?;
    Some(f64::midpoint(lower, upper))
}

/// The value that a part (0 to 1) of a sorted list does not exceed, by nearest rank.
pub fn percentile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (part.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}

/// Finds the highest value that passes between one that is taken to pass and one that does not, to a thirty-second of
/// the upper one. `probe` gives what was reached, or `None` if it did not pass.
///
/// # Errors
/// What `probe` gives.
pub fn highest<E>(
    mut passes: u64,
    mut fails: u64,
    mut probe: impl FnMut(u64) -> Result<Option<f64>, E>,
) -> Result<f64, E> {
    let step = (fails / 32).max(1);
    let mut best = 0.0;
    while fails.saturating_sub(passes) > step {
        let middle = u64::midpoint(passes, fails);
        if let Some(reached) = probe(middle)? {
            best = reached;
            passes = middle;
        } else {
            fails = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn percentiles() {
        let values: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&values, 0.5), Some(50));
        assert_eq!(percentile(&values, 0.99), Some(99));
        assert_eq!(percentile(&values, 1.0), Some(100));
        assert_eq!(percentile(&values, 0.0), Some(1));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn the_search_comes_close_in_few_steps() {
        let mut steps = 0;
        let found = highest(0, 200_000, |rate| {
            steps += 1;
            Ok::<_, Infallible>((rate <= 123_456).then_some(rate as f64))
        });
        let found = found.unwrap();
        assert!(found <= 123_456.0 && found > 123_456.0 - 200_000.0 / 32.0, "{found}");
        assert!(steps <= 6, "{steps}");
        assert_eq!(highest(0, 1000, |_| Ok::<_, Infallible>(None)), Ok(0.0));
    }
}
