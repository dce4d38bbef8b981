//! A figure over the rounds: median and extremes. Pure arithmetic and how it is written.

use std::fmt;

/// Median and extremes of one figure over rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    /// Half of the rounds are not above it.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// Rounds that it is of.
    pub(crate) rounds: usize,
}

impl Spread {
    /// Of some figures; `None` without any.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max, rounds: sorted.len() })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max, rounds } = *self;
        f.write_str(&digits(median))?;
        if rounds > 1 {
            write!(f, " ({}–{})", digits(min), digits(max))?;
        }
        Ok(())
    }
}

/// A number with three significant digits, and thousands apart.
pub(crate) fn digits(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return "0".to_owned();
    }
    let magnitude = x.abs().log10().floor();
    if magnitude >= 3.0 {
        let unit = 10f64.powf(magnitude - 2.0);
        return grouped((x / unit).round() * unit);
    }
    let places = (2.0 - magnitude).clamp(0.0, 6.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 6")]
    let places = places as usize;
    format!("{x:.places$}")
}

/// A whole number with its thousands apart.
fn grouped(x: f64) -> String {
    let plain = format!("{:.0}", x.abs());
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    if x < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_between_the_middle_two() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(
            spread(&[3.0, 1.0, 2.0]),
            Some(Spread { median: 2.0, min: 1.0, max: 3.0, rounds: 3 })
        );
        assert_eq!(
            spread(&[4.0, 1.0]),
            Some(Spread { median: 2.5, min: 1.0, max: 4.0, rounds: 2 })
        );
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[f64::NAN]), None);
    }

    #[test]
    fn one_round_has_no_spread() {
        let shown = |figures: &[f64]| Spread::of(figures.iter().copied()).unwrap().to_string();
        assert_eq!(shown(&[2.0]), "2.00");
        assert_eq!(shown(&[2.0, 4.0]), "3.00 (2.00–4.00)");
    }

    #[test]
    fn three_digits_are_enough() {
        for (x, shown) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (9.996, "10.00"),
            (123.4, "123"),
            (1234.0, "1\u{202f}230"),
            (5_678_901.0, "5\u{202f}680\u{202f}000"),
            (-4567.0, "-4\u{202f}570"),
        ] {
            assert_eq!(digits(x), shown, "{x}");
        }
    }
}
