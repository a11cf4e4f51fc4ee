//! Bar charts: groups of bars with intervals. plotters draws them: bars are its `Rectangle`,
//! intervals its `PathElement` (its `ErrorBar` has a dot at the mean, which is the end of the bar),
//! and the names of the groups are the labels of its axis. What is ours is in `axes.rs`.

use super::axes::{self, Axes, Key, Labels};
use super::axis::Axis;
use super::backend::stroke;
use super::chart::{check_range, check_size};
use super::font::{self, Face};
use super::plot::{Drawn, failed};
use super::style::{Colour, SMALL};
use super::{Figure, texts};
use crate::Estimate;
use crate::{Error, Result};
use plotters::element::{PathElement, Rectangle};
use plotters::style::Color as _;
use plotters::style::text_anchor::HPos;

/// A chart of grouped bars with intervals, for example shares or agreement rates.
///
/// ```
/// use invariances_figure::{Bars, Estimate};
/// let kept = Estimate { mean: 0.75, low: 0.25, high: 1.0, n: 4 };
/// let figure = Bars::new("Class kept", ["reconstructions", "samples"])
///     .series("network", &[kept, kept])
///     .series("judge", &[kept, kept])
///     .reference(0.1, "chance")
///     .y_range(0.0, 1.0)
///     .figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Bars {
    title: String,
    groups: Vec<String>,
    series: Vec<(String, Vec<Estimate>)>,
    references: Vec<(f64, String)>,
    y_label: Option<String>,
    y_range: Option<(f64, f64)>,
    size: (f64, f64),
}

impl Bars {
    /// Creates a chart with one position on the x axis per group.
    pub fn new<I: IntoIterator<Item: ToString>>(title: &str, groups: I) -> Self {
        Self {
            title: title.into(),
            groups: texts(groups),
            series: Vec::new(),
            references: Vec::new(),
            y_label: None,
            y_range: None,
            size: (420.0, 280.0),
        }
    }

    /// Adds a series: one bar in every group. A value that is not finite leaves its place empty.
    pub fn series(mut self, label: &str, values: &[Estimate]) -> Self {
        self.series.push((label.into(), values.to_vec()));
        self
    }

    /// Adds a dashed line across the chart, for example at chance level.
    pub fn reference(mut self, y: f64, label: &str) -> Self {
        self.references.push((y, label.into()));
        self
    }

    /// Sets the label of the y axis: the quantity that is measured.
    pub fn y_label(mut self, label: &str) -> Self {
        self.y_label = Some(label.into());
        self
    }

    /// Sets the range of y. Default: from 0, or the lowest value if that is negative, to slightly
    /// above the largest value.
    ///
    /// In both cases the upper end is raised by 9 % of the range, to leave room for the numbers
    /// above the bars.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    /// Sets width and height in logical pixels. Default: 420 × 280.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width.into(), height.into());
        self
    }

    /// Draws the bars.
    ///
    /// # Errors
    /// [`Error::Invalid`] without groups or series, for a size below 160 × 120, or for an empty
    /// range; [`Error::Shape`] if a series does not have one value per group.
    pub fn figure(&self) -> Result<Figure> {
        if self.groups.is_empty() || self.series.is_empty() {
            return Err(Error::invalid(format!(
                "expected bars with at least one group and one series, found {} groups and {} series",
                self.groups.len(),
                self.series.len()
            )));
        }
        if let Some((label, values)) = self
            .series
            .iter()
            .find(|(_, v)| v.len() != self.groups.len())
        {
            return Err(Error::shape(format!(
                "expected one value per group in the series “{label}”, found {} values for {} groups",
                values.len(),
                self.groups.len()
            )));
        }
        check_size(self.size)?;
        check_range("y", self.y_range, false)?;
        let ends = self
            .series
            .iter()
            .flat_map(|(_, v)| v)
            .flat_map(|e| [e.low, e.mean, e.high]);
        let ends = ends.chain(self.references.iter().map(|r| r.0)).chain([0.0]);
        let mut y = Axis::over(ends, self.y_range, false, 0.05, self.y_label.clone());
        // Room for the numbers above the bars.
        y.high += 0.09 * (y.high - y.low);
        let groups = self.groups.len() as f64;
        let room = (self.size.0 - 75.0) / groups - 4.0;
        let name = |label: &String| font::wrap(Face::Regular, SMALL, label, room).join("\n");
        let names = self.groups.iter().map(name).enumerate();
        let x = Axis {
            high: groups,
            ticks: names.map(|(g, name)| (g as f64 + 0.5, name)).collect(),
            ..Axis::default()
        };
        let legend: Vec<(String, Colour, Key)> = self
            .series
            .iter()
            .enumerate()
            .filter(|(_, (label, _))| !label.is_empty())
            .map(|(i, (label, _))| (label.clone(), Colour::palette(i), Key::Square))
            .collect();
        let legend = [legend, axes::references(&self.references)].concat();
        let labels = Labels {
            x: (Colour::INK, SMALL),
            ..Labels::default()
        };
        let mut axes = Axes::new(self.size, &self.title, &legend, (x, y), &labels)?;
        self.draw(&mut axes).map_err(failed)?;
        axes.figure(&self.title, self.rows())
    }

    fn draw(&self, axes: &mut Axes) -> Drawn {
        let [_, top, width, _] = axes.area;
        // Logical pixels per group.
        let slot = width / self.groups.len() as f64;
        let n = self.series.len() as f64;
        let bar = (slot * 0.72 / n).min(56.0);
        let gap = (bar * 0.06).min(2.0) / slot;
        let zero = 0.0f64.max(axes.y().low);
        let mut numbers = Vec::new();
        axes.inside(true);
        for (s, (_, values)) in self.series.iter().enumerate() {
            for (g, value) in values
                .iter()
                .enumerate()
                .filter(|(_, v)| v.mean.is_finite())
            {
                let left = g as f64 + 0.5 + (s as f64 - n / 2.0) * bar / slot;
                let (middle, right) = (left + bar / slot / 2.0, left + bar / slot);
                let corners = [(left + gap, zero), (right - gap, value.mean)];
                axes.draw([Rectangle::new(corners, Colour::palette(s).filled())])?;
                let mut upper = value.mean.max(zero);
                if value.low.is_finite() && value.high.is_finite() && value.high > value.low {
                    let half = (bar * 0.16).clamp(2.0, 5.0) / slot;
                    let end = |y: f64| vec![(middle - half, y), (middle + half, y)];
                    let stem = vec![(middle, value.low), (middle, value.high)];
                    let lines = [stem, end(value.high), end(value.low)];
                    axes.draw(lines.map(|l| PathElement::new(l, stroke(Colour::INK, 1.2))))?;
                    upper = upper.max(value.high);
                }
                if bar >= 20.0 {
                    let [x, y] = axes.at(middle, upper);
                    let at = [x, (y - 4.0).max(top + SMALL * 0.8)];
                    numbers.push((at, format!("{:.2}", value.mean).replace('-', "−")));
                }
            }
        }
        axes.inside(false);
        for (i, (value, _)) in self.references.iter().enumerate() {
            axes.reference(*value, axes::reference_colour(i))?;
        }
        for (at, text) in &numbers {
            axes.write(*at, HPos::Center, SMALL - 0.5, Colour::INK, text)?;
        }
        axes.close(false)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![texts(["series", "group", "mean", "low", "high", "n"])];
        for (label, estimates) in &self.series {
            for (group, e) in self.groups.iter().zip(estimates) {
                rows.push(vec![
                    label.clone(),
                    group.clone(),
                    e.mean.to_string(),
                    e.low.to_string(),
                    e.high.to_string(),
                    e.n.to_string(),
                ]);
            }
        }
        rows
    }
}
