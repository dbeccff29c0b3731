//! Weights of the jobs on a route, and the shares that follow from them.
//!
//! Positive weights are percent, 0 is `auto`, negative is inactive. Let S be the sum of the
//! positive ones. With autos present and S ≤ 100 the positive ones keep their percent and the
//! autos share 100 − S equally; otherwise the positive ones are normalised to 100 and autos get
//! nothing. The rule is applied to the admissible targets alone, so that shares always sum to one.
//!
//! All arithmetic is in integers: a share is `parts` of `whole`. Deliberately absent: which
//! request goes where; that is `splitter.rs`.

use crate::mistake::SyntaxError;
use crate::slot::JobSlot;
use std::fmt;
use std::str::FromStr;

/// Largest weight, either sign, in percent. Sums above 100 are normalised, so more would only
/// be another way to write the same.
pub const WEIGHT_PERCENT_MAX: i32 = 10_000;
/// Most jobs on one route: a set of them is a `u64` mask.
pub const TARGETS_MAX: usize = 64;
/// A hundred percent.
const WHOLE: i32 = 100 * HUNDREDTHS;
/// Two decimals are kept.
const HUNDREDTHS: i32 = 100;

/// Weight of a job on a route: percent with two decimals, 0 = auto, negative = inactive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(i32);

impl Weight {
    /// An equal share of what the positive weights leave.
    pub const AUTO: Self = Self(0);

    /// A weight of hundredths of a percent; `None` beyond [`WEIGHT_PERCENT_MAX`].
    #[must_use]
    pub const fn from_hundredths(hundredths: i32) -> Option<Self> {
        if hundredths.unsigned_abs() <= (WEIGHT_PERCENT_MAX * HUNDREDTHS).unsigned_abs() {
            Some(Self(hundredths))
        } else {
            None
        }
    }

    /// A weight of percent as JSON and TOML have it, rounded to two decimals; `None` when not
    /// finite, beyond [`WEIGHT_PERCENT_MAX`], or so small that rounding would make it `auto`.
    #[must_use]
    pub fn from_percent(percent: f64) -> Option<Self> {
        let hundredths = (percent * f64::from(HUNDREDTHS)).round();
        let small_enough = hundredths.abs() <= f64::from(WEIGHT_PERCENT_MAX * HUNDREDTHS);
        if !small_enough || (hundredths == 0.0 && percent != 0.0) {
            return None; // Also what is not a number.
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole, and the range is checked")]
        Self::from_hundredths(hundredths as i32)
    }

    /// Hundredths of a percent.
    #[must_use]
    pub const fn hundredths(self) -> i32 {
        self.0
    }

    /// Percent, exact to two decimals.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(HUNDREDTHS)
    }

    /// Whether the target may get requests at all.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self.0 >= 0
    }

    /// Whether the weight is 0.
    #[must_use]
    pub const fn is_auto(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for Weight {
    type Err = SyntaxError;

    /// `50`, `50%`, `30.0`, `33.33%`, `-10%`, `auto`. More than two decimals are rounded.
    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        const HINT: &str = "a percentage such as 45, 33.3% or -10%, or auto";
        if text == "auto" {
            return Ok(Self::AUTO);
        }
        let number = text.strip_suffix('%').unwrap_or(text);
        let digits = number.strip_prefix('-').unwrap_or(number);
        let start = number.len() - digits.len();
        if let Some(offset) = digits.find(|c: char| !c.is_ascii_digit() && c != '.') {
            let what = "this is not part of a number";
            return Err(SyntaxError::at(text, start + offset, what, HINT));
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        if let Some(second) = fraction.find('.') {
            let at = start + whole.len() + 1 + second;
            return Err(SyntaxError::at(text, at, "a second decimal point", HINT));
        }
        if whole.is_empty() || fraction.is_empty() {
            return Err(SyntaxError::at(text, start + whole.len(), "a digit is missing", HINT));
        }
        let percent = number.parse::<f64>().unwrap_or(f64::NAN);
        Self::from_percent(percent).ok_or_else(|| {
            let what = if percent.abs() < 1.0 {
                "this is less than two decimals can hold, and would become auto".to_owned()
            } else {
                format!("a weight is at most {WEIGHT_PERCENT_MAX} percent")
            };
            SyntaxError::at(text, start, what, HINT)
        })
    }
}

/// `auto`, `45%`, `33.33%`, `-10%`.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_auto() {
            return f.pad("auto");
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        let (percent, rest) = (self.0.abs() / HUNDREDTHS, self.0.abs() % HUNDREDTHS);
        let text = match (rest / 10, rest % 10) {
            (0, 0) => format!("{sign}{percent}%"),
            (tenths, 0) => format!("{sign}{percent}.{tenths}%"),
            _ => format!("{sign}{percent}.{rest:02}%"),
        };
        f.pad(&text)
    }
}

/// A job on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The job.
    pub job: JobSlot,
    /// Its weight on this route.
    pub weight: Weight,
}

/// The jobs on a route, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Version of the table in which the list or a weight last changed.
    pub revision: u64,
    /// At most [`TARGETS_MAX`]; bit `i` of a mask stands for `list[i]`.
    pub list: Box<[Target]>,
}

/// What a target gets: `parts` of `whole` requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Position in the list of targets.
    pub target: usize,
    /// Numerator, never 0.
    pub parts: i64,
}

impl Targets {
    /// Mask of the targets whose weight is not negative.
    #[must_use]
    #[inline]
    pub fn active(&self) -> u64 {
        self.mask(|target| target.weight.is_active())
    }

    /// Mask of the targets that `are`.
    #[inline]
    pub(crate) fn mask(&self, are: impl Fn(&Target) -> bool) -> u64 {
        debug_assert!(self.list.len() <= TARGETS_MAX);
        let bits = self.list.iter().enumerate();
        bits.fold(0, |mask, (index, target)| mask | u64::from(are(target)) << index)
    }

    /// Exact shares of the active targets in `admissible`, and the whole of which they are parts.
    ///
    /// Targets without a share are left out; the list is empty when nobody may serve.
    #[must_use]
    pub fn shares(&self, admissible: u64) -> (Vec<Share>, i64) {
        let in_play = || {
            let targets = self.list.iter().enumerate();
            targets.filter(|(i, t)| admissible >> i & 1 == 1 && t.weight.is_active())
        };
        let sum: i64 = in_play().map(|(_, t)| i64::from(t.weight.0)).sum();
        let autos = i64::try_from(in_play().filter(|(_, t)| t.weight.is_auto()).count())
            .expect("there are at most 64 targets");
        let left = i64::from(WHOLE) - sum;
        // Without anything left for autos the sum itself is the whole. With it, everything is
        // counted in units of 1/autos of a hundredth, so that the equal parts are whole numbers.
        let (unit, auto_parts, whole) = if autos == 0 || left <= 0 {
            (1, 0, sum)
        } else {
            (autos, left, i64::from(WHOLE) * autos)
        };
        let shares = in_play().map(|(target, t)| {
            let parts = if t.weight.is_auto() { auto_parts } else { i64::from(t.weight.0) * unit };
            Share { target, parts }
        });
        (shares.filter(|share| share.parts > 0).collect(), whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn targets(weights: &[&str]) -> Targets {
        let target = |w: &&str| Target { job: JobSlot::default(), weight: w.parse().unwrap() };
        Targets { revision: 1, list: weights.iter().map(target).collect() }
    }

    fn percents(weights: &[&str]) -> Vec<f64> {
        let targets = targets(weights);
        let (shares, whole) = targets.shares(u64::MAX);
        let mut percents = vec![0.0; weights.len()];
        for share in shares {
            percents[share.target] = 100.0 * share.parts as f64 / whole as f64;
        }
        percents
    }

    #[test]
    fn shares_follow_the_rule() {
        let cases: [(&[&str], &[f64]); 13] = [
            (&["45%", "45%", "auto"], &[45.0, 45.0, 10.0]),
            (&["30", "auto"], &[30.0, 70.0]),
            (&["100%", "auto"], &[100.0, 0.0]),
            (&["auto", "auto"], &[50.0, 50.0]),
            (&["auto", "auto", "auto", "auto"], &[25.0, 25.0, 25.0, 25.0]),
            (&["-10%", "auto"], &[0.0, 100.0]),
            (&["-10%", "-1"], &[0.0, 0.0]),
            (&["20", "20"], &[50.0, 50.0]),
            (&["150", "50"], &[75.0, 25.0]),
            (&["150", "50", "auto"], &[75.0, 25.0, 0.0]),
            (&["1"], &[100.0]),
            (&["12.5", "auto", "auto", "-5"], &[12.5, 43.75, 43.75, 0.0]),
            (&[], &[]),
        ];
        for (weights, expected) in cases {
            assert_eq!(percents(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn shares_are_computed_among_the_admissible_alone() {
        let targets = targets(&["45", "45", "auto"]);
        let share = |target, parts| Share { target, parts };
        assert_eq!(targets.shares(0b101), (vec![share(0, 4_500), share(2, 5_500)], 10_000));
        assert_eq!(targets.shares(0b011), (vec![share(0, 4_500), share(1, 4_500)], 9_000));
        assert_eq!(targets.shares(0).0, vec![]);
    }

    #[test]
    fn the_usual_spellings_are_read() {
        let cases = [
            ("50", "50%"),
            ("50%", "50%"),
            ("30.0", "30%"),
            ("-10%", "-10%"),
            ("0", "auto"),
            ("0%", "auto"),
            ("-0", "auto"),
            ("auto", "auto"),
            ("33.333%", "33.33%"),
            ("12.5", "12.5%"),
            ("0.05", "0.05%"),
            ("007", "7%"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Weight>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            ("", 1, "a digit is missing"),
            ("%", 1, "a digit is missing"),
            ("-", 2, "a digit is missing"),
            ("5.", 2, "a digit is missing"),
            (".5", 1, "a digit is missing"),
            ("5 %", 2, "this is not part of a number"),
            ("5%%", 2, "this is not part of a number"),
            ("+5", 1, "this is not part of a number"),
            ("1e3", 2, "this is not part of a number"),
            ("-x", 2, "this is not part of a number"),
            ("1.2.3", 4, "a second decimal point"),
            ("10001", 1, "a weight is at most 10000 percent"),
            ("0.001", 1, "this is less than two decimals can hold, and would become auto"),
        ];
        for (text, column, what) in cases {
            let error = text.parse::<Weight>().expect_err(text);
            assert_eq!((error.column, error.what.as_ref()), (column, what), "{text}");
        }
        assert_eq!(Weight::from_percent(f64::NAN), None);
        assert_eq!(Weight::from_percent(f64::INFINITY), None);
    }

    proptest! {
        #[test]
        fn display_then_parse_is_identity(hundredths in -1_000_000i32..=1_000_000) {
            let weight = Weight::from_hundredths(hundredths).unwrap();
            prop_assert_eq!(weight.to_string().parse::<Weight>().unwrap(), weight);
            prop_assert_eq!(Weight::from_percent(weight.percent()), Some(weight));
        }

        /// Goal: shares are whole: nothing is lost, nobody inactive or inadmissible gets any.
        #[test]
        fn shares_sum_to_the_whole(weights in prop::collection::vec(-500i32..20_000, 0..=64), mask: u64) {
            let list = weights.iter().map(|&w| Target {
                job: JobSlot::default(),
                weight: Weight::from_hundredths(w.max(-1)).unwrap(),
            });
            let targets = Targets { revision: 0, list: list.collect() };
            let (shares, whole) = targets.shares(mask);
            prop_assert_eq!(shares.is_empty(), targets.active() & mask == 0);
            prop_assert_eq!(shares.iter().map(|share| share.parts).sum::<i64>(), whole);
            for share in shares {
                prop_assert!((targets.active() & mask) >> share.target & 1 == 1);
            }
        }
    }
}
