//! Which rates a throughput measurement offers: up a ladder until the subject loses, then between
//! the last rate it carried and the first it did not. Sends nothing itself.

/// Rates in a row that were too much, after which the ladder ends.
const OVERLOADS_MAX: u32 = 2;

/// What came of a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// It was carried.
    Carried,
    /// Some of it was lost: by the rate, or by other work on this machine.
    Lossy,
    /// So much was lost that it was the rate.
    Overload,
    /// The rate itself could not be offered, nor can a higher one.
    NotOffered,
    /// No measurement: the subject or the tool failed, or the user ended it.
    End,
}

/// Offers `ladder` (rising), then `bisections` rates in between, geometrically. Whether all that
/// was to be offered was: `false` after [`Step::End`].
pub(crate) fn climb(
    ladder: &[u32],
    bisections: u32,
    mut offer: impl FnMut(u32) -> anyhow::Result<Step>,
) -> anyhow::Result<bool> {
    let (mut carried, mut lossy, mut overloads) = (None, None, 0);
    for rate in ladder {
        match offer(*rate)? {
            Step::Carried => {
                // A loss below a rate that was carried was not the rate's.
                (carried, lossy, overloads) = (Some(*rate), None, 0);
            }
            Step::Lossy => lossy = lossy.or(Some(*rate)),
            Step::Overload => {
                lossy = lossy.or(Some(*rate));
                overloads += 1;
            }
            Step::NotOffered => break,
            Step::End => return Ok(false),
        }
        if overloads == OVERLOADS_MAX {
            break;
        }
    }
    let Some((mut low, mut high)) = carried.zip(lossy) else { return Ok(true) };
    for _ in 0..bisections {
        let Some(middle) = between(low, high) else { break };
        match offer(middle)? {
            Step::Carried => low = middle,
            Step::Lossy | Step::Overload => high = middle,
            Step::NotOffered => break,
            Step::End => return Ok(false),
        }
    }
    Ok(true)
}

/// The geometric mean, to two digits; `None` when nothing lies between.
fn between(low: u32, high: u32) -> Option<u32> {
    let mean = (f64::from(low) * f64::from(high)).sqrt();
    let unit = 10f64.powf((mean.log10().floor() - 1.0).max(0.0));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u32")]
    let middle = ((mean / unit).round() * unit) as u32;
    (low < middle && middle < high).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are offered to a subject that carries up to `capacity`, by a generator that
    /// reaches `ceiling`.
    fn offered(capacity: u32, ceiling: u32) -> Vec<u32> {
        let mut rates = Vec::new();
        let all = climb(&[100, 200, 400, 800, 1600], 2, |rate| {
            rates.push(rate);
            Ok(match rate {
                _ if rate > ceiling => Step::NotOffered,
                _ if rate > capacity + capacity / 10 => Step::Overload,
                _ if rate > capacity => Step::Lossy,
                _ => Step::Carried,
            })
        });
        assert!(all.unwrap());
        rates
    }

    #[test]
    fn a_ladder_ends_behind_two_overloads_and_looks_between() {
        assert_eq!(offered(300, 9999), [100, 200, 400, 800, 280, 330]);
        assert_eq!(offered(200, 9999), [100, 200, 400, 800, 280, 240]);
        assert_eq!(offered(390, 9999), [100, 200, 400, 800, 1600, 280, 330]);
    }

    #[test]
    fn what_carries_everything_is_offered_everything_once() {
        assert_eq!(offered(9999, 9999), [100, 200, 400, 800, 1600]);
        assert_eq!(offered(9999, 800), [100, 200, 400, 800, 1600], "the last one fails to be");
        assert_eq!(offered(9999, 300), [100, 200, 400]);
    }

    #[test]
    fn what_carries_nothing_is_not_searched() {
        assert_eq!(offered(50, 9999), [100, 200]);
    }

    #[test]
    fn losses_by_accident_do_not_end_the_ladder() {
        let mut rates = Vec::new();
        let all = climb(&[100, 200, 400, 800, 1600], 1, |rate| {
            rates.push(rate);
            Ok(match rate {
                100 | 400 => Step::Overload,
                200 => Step::Carried,
                _ => Step::Lossy,
            })
        });
        assert!(all.unwrap());
        assert_eq!(rates, [100, 200, 400, 800, 1600, 280], "no two overloads in a row");
    }

    #[test]
    fn an_end_is_an_end() {
        let mut count = 0;
        let all = climb(&[100, 200, 400], 2, |_| {
            count += 1;
            Ok(Step::End)
        });
        assert_eq!((all.unwrap(), count), (false, 1));
    }
}
