//! One axis with round numbers, as a coordinate of plotters.
//!
//! The coordinates of plotters (`RangedCoordf64`, `LogCoord`) are not used: their numbers are
//! denser and unformatted ("0.0", "100000.0"), they have no superscripts, and they cannot label
//! positions with words. plotters draws the grid lines, marks and labels from what is here.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// One axis: its range, whether it is logarithmic, its label, and the positions and texts of its
/// numbers. A text may have several lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    pub label: Option<String>,
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Creates an axis for these values, or for the range that the caller fixed. Values that are
    /// not finite are left out, and on a logarithmic axis also those that are not positive.
    pub fn over(
        values: impl Iterator<Item = f64>,
        fixed: Option<(f64, f64)>,
        log: bool,
        pad: f64,
        label: Option<String>,
    ) -> Self {
        let usable = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let found = usable.fold(None, |r: Option<(f64, f64)>, v| {
            let (low, high) = r.unwrap_or((v, v));
            Some((low.min(v), high.max(v)))
        });
        let (mut low, mut high) =
            fixed
                .or(found)
                .unwrap_or(if log { (0.1, 10.0) } else { (0.0, 1.0) });
        if log {
            if high / low < 1.0001 {
                (low, high) = (low / 2.0, high * 2.0);
            }
            if fixed.is_none() {
                let more = (high / low).powf(pad);
                (low, high) = (low / more, high * more);
            }
        } else {
            if high - low <= 1e-12 * high.abs().max(low.abs()).max(1e-300) {
                let half = if high == 0.0 { 1.0 } else { 0.1 * high.abs() };
                (low, high) = (low - half, high + half);
            }
            if fixed.is_none() {
                let more = (high - low) * pad;
                // A quantity that is never negative keeps 0 as the lower limit: the padding does
                // not go below it.
                let floor = low >= 0.0 && low - more < 0.0;
                (low, high) = (if floor { 0.0 } else { low - more }, high + more);
            }
        }
        let mut ticks = if log {
            log_ticks(low, high)
        } else {
            ticks(low, high)
        };
        // plotters leaves out labels that are outside the range, even by a rounding error.
        ticks.iter_mut().for_each(|t| t.0 = t.0.clamp(low, high));
        Self {
            low,
            high,
            log,
            label,
            ticks,
        }
    }

    /// Returns the position of a value on the axis: 0 is the low end, 1 the high end.
    pub fn share(&self, v: f64) -> f64 {
        if self.log {
            (v.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        // Points far outside the plot need no exact position.
        let share = self.share(*value).clamp(-2.0, 3.0);
        from + (share * f64::from(to - from)).round() as i32
    }

    /// Returns the positions of the numbers. There are no lines between them.
    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map_or_else(String::new, |(_, text)| text.clone())
    }
}

/// Returns about five round numbers in a range.
pub(super) fn ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / 5.0;
    if !(rough > 0.0 && rough.is_finite()) {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|s| *s >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let count = ((last - first) as usize).min(50);
    (0..=count)
        .map(|i| {
            let value = (first + i as f64) * step;
            (value, number(value, step))
        })
        .collect()
}

fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let decades = (high / low).log10();
    let every = (decades / 6.0).ceil().max(1.0) as i32;
    let factors: &[f64] = match decades {
        d if d < 1.2 => &[1.0, 2.0, 3.0, 5.0],
        d if d < 2.5 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let mut found = Vec::new();
    for e in (first..=last).filter(|e| e % every == 0) {
        for f in factors {
            let value = f * 10f64.powi(e);
            if value >= low * 0.999 && value <= high * 1.001 {
                let text = if (-3..=4).contains(&e) {
                    number(value, value)
                } else if *f == 1.0 {
                    format!("10{}", superscript(e))
                } else {
                    format!("{f}·10{}", superscript(e))
                };
                found.push((value, text));
            }
        }
    }
    found
}

/// Formats a value that is a multiple of `step`, with as few decimals as possible.
pub(super) fn number(value: f64, step: f64) -> String {
    let (shown, step, unit) = match value.abs().max(step) {
        v if v >= 1e15 || (v > 0.0 && v < 1e-4) => return format!("{value:.1e}"),
        v if v >= 1e6 => (value / 1e6, step / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, step / 1e3, "k"),
        _ => (value, step, ""),
    };
    let decimals = (0..6).find(|d| {
        let scaled = step * 10f64.powi(*d);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.abs()
    });
    let shown = if shown.abs() < step * 1e-6 {
        0.0
    } else {
        shown
    };
    let unit = if shown == 0.0 { "" } else { unit };
    let text = format!("{shown:.*}{unit}", decimals.unwrap_or(3) as usize);
    // The minus sign is as wide as the plus sign; the hyphen is not.
    text.replace('-', "−")
}

fn superscript(exponent: i32) -> String {
    exponent
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            c => char::from_u32(0x2070 + c.to_digit(10).unwrap_or(0)).unwrap_or(c),
        })
        .collect()
}
