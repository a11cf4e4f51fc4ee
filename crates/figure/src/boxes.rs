//! Box plots: distributions in groups. plotters draws them: boxes are its `Rectangle`, whiskers
//! and medians its `PathElement` (its `Boxplot` is not filled, and its whiskers depend on the
//! height of the box). The names of the groups are the labels of its axis. What is ours is in
//! `axes.rs`.

use super::axes::{self, Axes, Key, Labels};
use super::axis::Axis;
use super::backend::stroke;
use super::chart::{check_range, check_size};
use super::font::{self, Face};
use super::plot::{Drawn, failed};
use super::style::{Colour, MARGIN, SMALL};
use super::{Figure, texts};
use crate::{Error, Result};
use plotters::element::{PathElement, Rectangle};
use plotters::style::Color as _;

/// The percentiles that are drawn: the ends of the whiskers and of the box, and the median.
const PERCENTILES: [f64; 5] = [5.0, 25.0, 50.0, 75.0, 95.0];
/// What the legend says of them.
const NOTE: &str = "line: median; box: 25–75 %; whiskers: 5–95 %";

/// A chart of distributions as boxes (a box plot), for example of the distances of many images.
///
/// Each series has one box per group. The line is at the median, the box reaches from the 25th to
/// the 75th percentile, and the whiskers from the 5th to the 95th. So half of the values are in
/// the box and nine tenths between the ends of the whiskers; values outside are not drawn. The
/// legend says this in short. A percentile between two values is interpolated linearly, as numpy
/// does by default.
///
/// [`Bars`](super::Bars) show means with their intervals, which get smaller with more images.
/// Boxes show how much single images differ.
///
/// ```
/// use invariances_figure::Boxes;
/// let distances: Vec<f64> = (1..=100).map(f64::from).collect();
/// let figure = Boxes::new("Distance to the original", ["conv5", "fc6"])
///     .series("network", &[distances.clone(), distances])
///     .series("noise", &[vec![50.0, 60.0, 70.0], vec![]])
///     .reference(40.0, "another image")
///     .y_label("distance")
///     .log_y()
///     .figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Boxes {
    title: String,
    groups: Vec<String>,
    series: Vec<(String, Vec<Vec<f64>>)>,
    references: Vec<(f64, String)>,
    y_label: Option<String>,
    y_range: Option<(f64, f64)>,
    log_y: bool,
    from_zero: bool,
    size: (f64, f64),
}

impl Boxes {
    /// Creates a chart with one position on the x axis per group.
    pub fn new<I: IntoIterator<Item: ToString>>(title: &str, groups: I) -> Self {
        Self {
            title: title.into(),
            groups: texts(groups),
            series: Vec::new(),
            references: Vec::new(),
            y_label: None,
            y_range: None,
            log_y: false,
            from_zero: false,
            size: (420.0, 280.0),
        }
    }

    /// Adds a series: one box in every group, of the values at the group's position in `values`.
    /// An empty vector leaves its place empty.
    pub fn series(mut self, label: &str, values: &[Vec<f64>]) -> Self {
        self.series.push((label.into(), values.to_vec()));
        self
    }

    /// Adds a dashed line across the chart, for example at the value of another image.
    pub fn reference(mut self, y: f64, label: &str) -> Self {
        self.references.push((y, label.into()));
        self
    }

    /// Sets the label of the y axis: the quantity that is measured.
    pub fn y_label(mut self, label: &str) -> Self {
        self.y_label = Some(label.into());
        self
    }

    /// Sets the range of y. Default: slightly more than what the whiskers and the reference lines
    /// need.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    /// Shows 0 on the y axis, so that one value can be read as a multiple of another one. Has no
    /// effect on a logarithmic axis or if [`Boxes::y_range`] is set.
    pub fn from_zero(mut self) -> Self {
        self.from_zero = true;
        self
    }

    /// Makes the y axis logarithmic. All values must then be above 0.
    pub fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// Sets width and height in logical pixels. Default: 420 × 280.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width.into(), height.into());
        self
    }

    /// Draws the boxes. The numbers of [`Figure::csv`] are the percentiles and the number of
    /// values of each box.
    ///
    /// # Errors
    /// [`Error::Invalid`] without groups or series, for a value that is not finite, for a value
    /// that is not above 0 on a logarithmic axis, for a size below 160 × 120, or for an empty
    /// range; [`Error::Shape`] if a series does not have one vector of values per group.
    pub fn figure(&self) -> Result<Figure> {
        self.check()?;
        let boxes: Vec<Vec<Option<[f64; 5]>>> = self
            .series
            .iter()
            .map(|(_, groups)| groups.iter().map(|values| percentiles(values)).collect())
            .collect();
        let ends = boxes.iter().flatten().flatten().flatten().copied();
        let ends = ends.chain(self.references.iter().map(|r| r.0));
        let ends = ends.chain((self.from_zero && !self.log_y).then_some(0.0));
        let y = Axis::over(ends, self.y_range, self.log_y, 0.05, self.y_label.clone());
        let groups = self.groups.len() as f64;
        let room = (self.size.0 - 75.0) / groups - 4.0;
        let name = |label: &String| font::wrap(Face::Regular, SMALL, label, room).join("\n");
        let names = self.groups.iter().map(name).enumerate();
        let x = Axis {
            high: groups,
            ticks: names.map(|(g, name)| (g as f64 + 0.5, name)).collect(),
            ..Axis::default()
        };
        let labels = Labels {
            x: (Colour::INK, SMALL),
            ..Labels::default()
        };
        let legend = self.legend();
        let mut axes = Axes::new(self.size, &self.title, &legend, (x, y), &labels)?;
        self.draw(&mut axes, &boxes).map_err(failed)?;
        axes.figure(&self.title, self.rows(&boxes))
    }

    fn check(&self) -> Result<()> {
        if self.groups.is_empty() || self.series.is_empty() {
            return Err(Error::invalid(format!(
                "expected boxes with at least one group and one series, found {} groups and {} series",
                self.groups.len(),
                self.series.len()
            )));
        }
        for (label, values) in &self.series {
            if values.len() != self.groups.len() {
                return Err(Error::shape(format!(
                    "expected one vector of values per group in the series “{label}”, found {} vectors for {} groups: an empty vector leaves its place empty",
                    values.len(),
                    self.groups.len()
                )));
            }
            for (group, values) in self.groups.iter().zip(values) {
                if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                    return Err(Error::invalid(format!(
                        "expected finite values in the series “{label}”, found {value} in the group “{group}”: find out where it comes from, or leave such values out with `values.retain(|v| v.is_finite())`"
                    )));
                }
                if let Some(value) = values.iter().find(|v| self.log_y && **v <= 0.0) {
                    return Err(Error::invalid(format!(
                        "expected values above 0 in the series “{label}” for a logarithmic y axis, found {value} in the group “{group}”: leave such values out, or draw the chart without `log_y()`"
                    )));
                }
            }
        }
        let hidden = |v: f64| !v.is_finite() || (self.log_y && v <= 0.0);
        if let Some((value, label)) = self.references.iter().find(|(v, _)| hidden(*v)) {
            let kind = if self.log_y { "above 0 " } else { "" };
            return Err(Error::invalid(format!(
                "expected a finite value {kind}for the reference line “{label}”, found {value}: leave the line out"
            )));
        }
        check_size(self.size)?;
        check_range("y", self.y_range, self.log_y)
    }

    /// Returns the series, the reference lines, and the note on one line where the chart is wide
    /// enough.
    fn legend(&self) -> Vec<(String, Colour, Key)> {
        let series = self
            .series
            .iter()
            .enumerate()
            .filter(|(_, (label, _))| !label.is_empty())
            .map(|(i, (label, _))| (label.clone(), fill(i), Key::Square));
        let fits = font::width(Face::Regular, SMALL, NOTE) <= self.size.0 - 2.0 * MARGIN;
        let notes: Vec<&str> = match fits {
            true => vec![NOTE],
            false => NOTE.split("; ").collect(),
        };
        let note = |text: &str| (text.to_string(), Colour::GREY, Key::Text);
        let lines = axes::references(&self.references);
        series
            .chain(lines)
            .chain(notes.into_iter().map(note))
            .collect()
    }

    fn draw(&self, axes: &mut Axes, boxes: &[Vec<Option<[f64; 5]>>]) -> Drawn {
        let [_, _, width, _] = axes.area;
        // Logical pixels per group.
        let slot = width / self.groups.len() as f64;
        let n = self.series.len() as f64;
        let place = (slot * 0.72 / n).min(56.0);
        // Half the width of a box and of a whisker's end, in groups.
        let (half, cap) = (place * 0.38 / slot, (place * 0.2).min(7.0) / slot);
        axes.inside(true);
        for (s, groups) in boxes.iter().enumerate() {
            for (g, found) in groups.iter().enumerate() {
                let Some([lowest, lower, median, upper, highest]) = *found else {
                    continue;
                };
                let middle = g as f64 + 0.5 + (s as f64 + 0.5 - n / 2.0) * place / slot;
                let across = |half: f64, y: f64| vec![(middle - half, y), (middle + half, y)];
                let corners = [(middle - half, lower), (middle + half, upper)];
                axes.draw([Rectangle::new(corners, fill(s).filled())])?;
                let whiskers = [
                    vec![(middle, lowest), (middle, lower)],
                    vec![(middle, upper), (middle, highest)],
                    across(cap, lowest),
                    across(cap, highest),
                ];
                axes.draw(whiskers.map(|l| PathElement::new(l, stroke(Colour::INK, 1.2))))?;
                let line = across(half, median);
                axes.draw([PathElement::new(line, stroke(Colour::INK, 2.4))])?;
            }
        }
        axes.inside(false);
        for (i, (value, _)) in self.references.iter().enumerate() {
            axes.reference(*value, axes::reference_colour(i))?;
        }
        axes.close(false)
    }

    /// Returns the percentiles of every box, which are blank for an empty place.
    fn rows(&self, boxes: &[Vec<Option<[f64; 5]>>]) -> Vec<Vec<String>> {
        let header = ["series", "group", "p5", "p25", "median", "p75", "p95", "n"];
        let mut rows = vec![texts(header)];
        for ((label, values), boxes) in self.series.iter().zip(boxes) {
            for ((group, values), found) in self.groups.iter().zip(values).zip(boxes) {
                let mut row = vec![label.clone(), group.clone()];
                match found {
                    Some(found) => row.extend(texts(found)),
                    None => row.extend(PERCENTILES.map(|_| String::new())),
                }
                row.push(values.len().to_string());
                rows.push(row);
            }
        }
        rows
    }
}

/// Returns the colour of a series' boxes. The grid is visible through them.
fn fill(series: usize) -> Colour {
    Colour::palette(series).with_alpha(0.6)
}

/// Returns the [`PERCENTILES`] of some values, or `None` without values.
fn percentiles(values: &[f64]) -> Option<[f64; 5]> {
    let last = values.len().checked_sub(1)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(PERCENTILES.map(|percent| {
        let at = last as f64 * (percent / 100.0);
        let below = (at as usize).min(last);
        let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
        // From the nearer of the two values, as numpy does: both ends are then exact.
        match at - below as f64 {
            share if share < 0.5 => low + (high - low) * share,
            share => high - (high - low) * (1.0 - share),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::Shape;

    #[track_caller]
    fn assert_percentiles(values: &[f64], expected: [f64; 5]) {
        let found = percentiles(values).unwrap();
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
        assert!(found.iter().zip(&expected).all(close), "{found:?}");
    }

    #[test]
    fn percentiles_are_interpolated_linearly() {
        assert_eq!(percentiles(&[]), None);
        assert_percentiles(&[7.0], [7.0; 5]);
        assert_percentiles(&[2.0, 1.0], [1.05, 1.25, 1.5, 1.75, 1.95]);
        assert_percentiles(&[5.0, 1.0, 3.0, 2.0, 4.0], [1.2, 2.0, 3.0, 4.0, 4.8]);
        assert_percentiles(&[8.0, -1.0, 0.3, 2.2], [-0.805, -0.025, 1.25, 3.65, 7.13]);
    }

    /// The label 0 is on the axis only if it is asked for: the values are far from 0.
    #[test]
    fn the_axis_starts_at_zero() -> Result<()> {
        let boxes = Boxes::new("", ["a"]).series("network", &[vec![10.0, 11.0, 12.0]]);
        let has_zero = |boxes: &Boxes| -> Result<bool> {
            let figure = boxes.figure()?;
            let mut shapes = figure.canvas.items.iter().map(|item| &item.shape);
            Ok(shapes.any(|s| matches!(s, Shape::Text { text, .. } if text.parse() == Ok(0.0))))
        };
        assert!(!has_zero(&boxes)?);
        assert!(has_zero(&boxes.clone().from_zero())?);
        assert!(!has_zero(&boxes.log_y().from_zero())?);
        Ok(())
    }

    #[test]
    fn the_note_is_inside_the_figure() -> Result<()> {
        for (width, pieces) in [(160, 3), (420, 1)] {
            let boxes = Boxes::new("", ["a"]).series("network", &[vec![1.0, 2.0]]);
            let figure = boxes.size(width, 200).figure()?;
            let mut notes = Vec::new();
            for item in &figure.canvas.items {
                let Shape::Text { at, text, size, .. } = &item.shape else {
                    continue;
                };
                let right = at[0] + font::width(Face::Regular, *size, text);
                let inside = at[0] >= 0.0 && right <= f64::from(width);
                assert!(inside, "“{text}” from {} to {right} of {width}", at[0]);
                if text.contains(':') {
                    notes.push(text.as_str());
                }
            }
            assert_eq!((notes.len(), notes.join("; ").as_str()), (pieces, NOTE));
        }
        Ok(())
    }
}
