//! The parts that charts share: plot area, axes with round numbers, title and legend.

use super::canvas::{Anchor, Canvas};
use super::font::{self, Face};
use super::style::{Colour, LABEL, LEADING, MARGIN, SMALL, TITLE};

/// One axis: its range, whether it is logarithmic, its label, and the positions and texts of its
/// numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    pub label: Option<String>,
    pub ticks: Vec<(f64, String)>,
    /// Lines of text at the axis, in addition to the one line of its numbers.
    pub more_lines: usize,
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
        Self {
            low,
            high,
            log,
            label,
            ticks: if log {
                log_ticks(low, high)
            } else {
                ticks(low, high)
            },
            more_lines: 0,
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

/// The symbol of a series in a legend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    Line,
    Dashed,
    Square,
}

/// A chart's canvas with everything except its data.
pub(super) struct Axes {
    pub canvas: Canvas,
    pub plot: [f64; 4],
    pub x: Axis,
    pub y: Axis,
}

impl Axes {
    pub fn new(
        (width, height): (f64, f64),
        title: &str,
        legend: &[(String, Colour, Key)],
        x: Axis,
        y: Axis,
    ) -> Self {
        let mut canvas = Canvas::new(width, height);
        let number_width = |t: &String| font::width(Face::Regular, SMALL, t);
        let numbers = y
            .ticks
            .iter()
            .map(|(_, t)| number_width(t))
            .fold(0.0, f64::max);
        let left = MARGIN + if y.label.is_some() { 18.0 } else { 0.0 } + (numbers + 7.0).ceil();
        let last = x.ticks.last().map_or(0.0, |(v, t)| {
            number_width(t) / 2.0 - (1.0 - x.share(*v)) * (width - left - MARGIN)
        });
        let right = width - MARGIN - last.max(0.0).ceil();

        let mut top = MARGIN;
        if !title.is_empty() {
            let lines = font::wrap(Face::Bold, TITLE, title, width - 2.0 * MARGIN);
            for (i, line) in lines.iter().enumerate() {
                let y = top + TITLE * 0.8 + i as f64 * TITLE * 1.25;
                canvas.text(
                    [MARGIN, y],
                    Anchor::Start,
                    Face::Bold,
                    TITLE,
                    Colour::INK,
                    line,
                );
            }
            top += lines.len() as f64 * TITLE * 1.25 + 5.0;
        }
        if !legend.is_empty() {
            let (mut x, mut y) = (MARGIN, top + SMALL * 0.85);
            for (label, colour, key) in legend {
                let indent = if *key == Key::Square { 15.0 } else { 23.0 };
                let wide = indent + font::width(Face::Regular, SMALL, label) + 15.0;
                if x > MARGIN && x + wide > width - MARGIN + 15.0 {
                    (x, y) = (MARGIN, y + SMALL * 1.5);
                }
                let middle = y - SMALL * 0.36;
                match key {
                    Key::Line => canvas.stroke(vec![[x, middle], [x + 18.0, middle]], *colour, 2.0),
                    Key::Dashed => {
                        canvas.dashed(
                            vec![[x, middle], [x + 18.0, middle]],
                            *colour,
                            1.5,
                            [4.0, 3.0],
                        );
                    }
                    Key::Square => {
                        canvas.rounded([x, middle - 5.0, 10.0, 10.0], 2.0, Some(*colour), None);
                    }
                }
                canvas.text(
                    [x + indent, y],
                    Anchor::Start,
                    Face::Regular,
                    SMALL,
                    Colour::GREY,
                    label,
                );
                x += wide;
            }
            top = y + SMALL * 0.4 + 4.0;
        }
        top = (top + 6.0).ceil();
        let labelled = if x.label.is_some() {
            LABEL * LEADING + 3.0
        } else {
            0.0
        };
        let lines = (1.0 + 1.2 * x.more_lines as f64) * SMALL;
        let bottom = (height - MARGIN - labelled - lines - 6.0).floor();
        let plot = [
            left,
            top,
            (right - left).max(10.0),
            (bottom - top).max(10.0),
        ];
        let mut axes = Self { canvas, plot, x, y };
        axes.frame();
        axes
    }

    fn frame(&mut self) {
        let [left, top, width, height] = self.plot;
        let (right, bottom) = (left + width, top + height);
        for (value, text) in &self.y.ticks {
            let y = (bottom - self.y.share(*value) * height).round() + 0.5;
            self.canvas
                .stroke(vec![[left, y], [right, y]], Colour::GRID, 1.0);
            let at = [left - 7.0, y + SMALL * 0.36];
            self.canvas
                .text(at, Anchor::End, Face::Regular, SMALL, Colour::GREY, text);
        }
        for (value, text) in &self.x.ticks {
            let x = left + self.x.share(*value) * width;
            let at = [x, bottom + SMALL + 5.0];
            self.canvas
                .text(at, Anchor::Middle, Face::Regular, SMALL, Colour::GREY, text);
        }
        if let Some(label) = &self.x.label {
            let at = [left + width / 2.0, bottom + SMALL + 8.0 + LABEL * 1.2];
            self.canvas
                .text(at, Anchor::Middle, Face::Regular, LABEL, Colour::INK, label);
        }
        if let Some(label) = &self.y.label {
            let at = [MARGIN + LABEL * 0.85, top + height / 2.0];
            self.canvas.text_upwards(at, LABEL, Colour::INK, label);
        }
    }

    /// Draws the line of the x axis and, if `marks` is set, a mark at each of its numbers. Call
    /// it after the data are drawn, so that the line is on top.
    pub fn close(&mut self, marks: bool) {
        let [left, top, width, height] = self.plot;
        let bottom = (top + height).round() + 0.5;
        let line = vec![[left, bottom], [left + width, bottom]];
        self.canvas.stroke(line, Colour::GREY, 1.0);
        if marks {
            for (value, _) in &self.x.ticks {
                let x = (left + self.x.share(*value) * width).round() + 0.5;
                self.canvas
                    .stroke(vec![[x, bottom], [x, bottom + 4.0]], Colour::GREY, 1.0);
            }
        }
    }

    /// Converts a point of the data to a point on the canvas.
    pub fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let [left, top, width, height] = self.plot;
        // Points far outside the plot need no exact position.
        let share = |s: f64| s.clamp(-2.0, 3.0);
        [
            left + share(self.x.share(x)) * width,
            top + (1.0 - share(self.y.share(y))) * height,
        ]
    }

    /// Restricts the shapes that follow to the plot area, or ends the restriction.
    pub fn inside(&mut self, on: bool) {
        let [l, t, w, h] = self.plot;
        self.canvas
            .clip(on.then_some([l - 1.0, t - 1.0, w + 2.0, h + 2.0]));
    }

    /// Draws a dashed line across the plot at a value. Its label is in the legend.
    pub fn reference(&mut self, value: f64, colour: Colour) {
        let [left, top, width, height] = self.plot;
        let y = self.at(self.x.low, value)[1].round() + 0.5;
        if y >= top && y <= top + height + 1.0 {
            let line = vec![[left, y], [left + width, y]];
            self.canvas.dashed(line, colour, 1.2, [4.0, 3.0]);
        }
    }
}

/// Returns the legend's entries for reference lines.
pub(super) fn references(references: &[(f64, String)]) -> Vec<(String, Colour, Key)> {
    let entry = |(i, (_, label)): (usize, &(f64, String))| {
        (label.clone(), reference_colour(i), Key::Dashed)
    };
    references.iter().enumerate().map(entry).collect()
}

pub(super) fn reference_colour(index: usize) -> Colour {
    match index {
        0 => Colour::INK,
        n => Colour::palette(n + 2),
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
