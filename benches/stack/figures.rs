//! Numbers out of numbers: medians, percentiles, the line through points. Pure, and tested by tests/bench.rs.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

/// One value per round; [`Rounds::median`] is what is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn extend(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    pub(crate) fn median(&self) -> Option<f64> {
        median(&self.0)
    }

    /// The median of each part, of parts of the same length.
    pub(crate) fn medians_of(&self, parts: usize) -> Self {
        let length = self.0.len() / parts.max(1);
        if length == 0 {
            return self.clone();
        }
        Self(self.0.chunks_exact(length).filter_map(median).collect())
    }

    /// Between which two rounds the median of endlessly many would be, with a confidence of 95% or more: it is left of the
    /// first or right of the last of so many as rarely as a coin falls on one side as often. `None` with fewer than six.
    pub(crate) fn interval(&self) -> Option<[f64; 2]> {
        let mut values = self.0.clone();
        values.sort_unstable_by(f64::total_cmp);
        let rounds = values.len() as f64;
        let (mut exactly, mut at_most, mut outside) = (0.5f64.powf(rounds), 0.0, 0);
        loop {
            at_most += exactly;
            if at_most > 0.025 {
                break;
            }
            if exactly == 0.0 {
                // So many rounds that what is rare cannot be told from what never happens.
                return None;
            }
            outside += 1;
            exactly *= (rounds - f64::from(outside) + 1.0) / f64::from(outside);
        }
        let first = usize::try_from(outside).ok()?.checked_sub(1)?;
        Some([*values.get(first)?, *values.get(values.len().checked_sub(first + 1)?)?])
    }

    /// Round by round, so that a busy round does not meet a quiet one.
    pub(crate) fn each_with(&self, other: &Self, join: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| join(*one, *other)).collect())
    }
}

/// The median and what it is of; null when nothing was measured.
impl Serialize for Rounds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(median) = self.median() else { return serializer.serialize_none() };
        let mut fields = serializer.serialize_struct("Rounds", 2)?;
        fields.serialize_field("median", &rounded(median))?;
        fields.serialize_field("rounds", &self.0.iter().copied().map(rounded).collect::<Vec<_>>())?;
        fields.end()
    }
}

/// To five digits: no measurement here has more.
pub(crate) fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10f64.powf(value.abs().log10().floor() - 4.0);
    // Divided rather than multiplied, which would bring back the digits that were cut.
    if unit < 1.0 { (value / unit).round() / (1.0 / unit).round() } else { (value / unit).round() * unit }
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(*upper, *lower))
}

/// The value below which this percentage of the sorted ones lies.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

/// How much the line through the points rises per step, by least squares. The points are 1, 2, 3, … steps along. `None`
/// with fewer than two.
pub(crate) fn slope(points: &[f64]) -> Option<f64> {
    let count = points.len() as f64;
    let (middle, mean) = ((count + 1.0) / 2.0, points.iter().sum::<f64>() / count);
    let (mut joint, mut spread) = (0.0, 0.0);
    for (index, point) in points.iter().enumerate() {
        let along = index as f64 + 1.0 - middle;
        joint += along * (point - mean);
        spread += along * along;
    }
    (spread > 0.0).then(|| joint / spread)
}
