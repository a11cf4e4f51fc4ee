//! Line charts with bands of uncertainty. plotters draws them: lines are its `LineSeries`, bands
//! its `Polygon` (an `AreaSeries` has one value as its lower edge), points its `Circle`. What is
//! ours is in `axes.rs`.

use super::axes::{self, Axes, Key, Labels};
use super::axis::Axis;
use super::backend::stroke;
use super::plot::{Drawn, failed, units};
use super::style::Colour;
use super::{Figure, numbers};
use crate::Estimate;
use crate::{Error, Result};
use plotters::element::{Circle, Polygon};
use plotters::series::LineSeries;
use plotters::style::Color as _;
use polars::prelude::{DataFrame, DataType};

/// A chart of lines over a common x axis. Each line may have a band of uncertainty.
///
/// ```
/// use invariances_figure::Chart;
/// let steps = [0.0, 500.0, 1000.0];
/// let figure = Chart::new("What training forgets")
///     .band("colour", &steps, &[0.9, 0.5, 0.4], &[0.8, 0.45, 0.35], &[1.0, 0.55, 0.45])
///     .line("digit", &steps, &[0.1, 0.6, 0.8])
///     .reference(0.1, "chance")
///     .x_label("step").y_label("share captured").y_range(0.0, 1.0)
///     .figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    lines: Vec<Line>,
    references: Vec<(f64, String)>,
    x_label: Option<String>,
    y_label: Option<String>,
    x_range: Option<(f64, f64)>,
    y_range: Option<(f64, f64)>,
    log_x: bool,
    log_y: bool,
    smooth: usize,
    dots: bool,
    size: (f64, f64),
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct Line {
    label: String,
    x: Vec<f64>,
    y: Vec<f64>,
    band: Option<(Vec<f64>, Vec<f64>)>,
}

impl Chart {
    /// Creates a chart without lines. An empty title takes up no space.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
            references: Vec::new(),
            x_label: None,
            y_label: None,
            x_range: None,
            y_range: None,
            log_x: false,
            log_y: false,
            smooth: 1,
            dots: false,
            size: (420.0, 280.0),
            problem: None,
        }
    }

    /// Adds a line through points. Values that are not finite leave a gap.
    pub fn line<X: Into<f64> + Copy, Y: Into<f64> + Copy>(
        self,
        label: &str,
        x: &[X],
        y: &[Y],
    ) -> Self {
        self.add(label, numbers(x), numbers(y), None)
    }

    /// Adds a line with a band from `low` to `high`.
    pub fn band<X: Into<f64> + Copy, Y: Into<f64> + Copy>(
        self,
        label: &str,
        x: &[X],
        y: &[Y],
        low: &[Y],
        high: &[Y],
    ) -> Self {
        self.add(
            label,
            numbers(x),
            numbers(y),
            Some((numbers(low), numbers(high))),
        )
    }

    /// Adds a line through the means of estimates, with a band of their intervals.
    pub fn estimates<X: Into<f64> + Copy>(self, label: &str, x: &[X], y: &[Estimate]) -> Self {
        let part = |of: fn(&Estimate) -> f64| -> Vec<f64> { y.iter().map(of).collect() };
        let (mean, low, high) = (part(|e| e.mean), part(|e| e.low), part(|e| e.high));
        self.add(label, numbers(x), mean, Some((low, high)))
    }

    /// Adds a line from two columns of a data frame, for example a trainer's log. Rows without a
    /// value are left out.
    pub fn columns(mut self, label: &str, frame: &DataFrame, x: &str, y: &str) -> Self {
        let read = |name: &str| -> Result<Vec<Option<f64>>> {
            let column = frame.column(name).map_err(|_| {
                let names: Vec<&str> = frame
                    .get_column_names()
                    .into_iter()
                    .map(|n| n.as_str())
                    .collect();
                Error::unknown(format!(
                    "no column {name} in the data frame; the columns are {}",
                    names.join(", ")
                ))
            })?;
            let column = column.cast(&DataType::Float64)?;
            Ok(column.f64()?.iter().collect())
        };
        match read(x).and_then(|x| Ok((x, read(y)?))) {
            Ok((x, y)) => {
                let rows = x.into_iter().zip(y).filter_map(|(x, y)| Some((x?, y?)));
                let (x, y) = rows.unzip();
                self.add(label, x, y, None)
            }
            Err(error) => {
                self.problem.get_or_insert(error.to_string());
                self
            }
        }
    }

    /// Draws every line as a moving mean: each point is averaged with the `window / 2` points
    /// (rounded down) on either side. The original line is drawn faintly behind it. Default: 1,
    /// no smoothing.
    pub fn smooth(mut self, window: usize) -> Self {
        self.smooth = window;
        self
    }

    /// Draws the points of every line as dots, in addition to the line.
    pub fn dots(mut self) -> Self {
        self.dots = true;
        self
    }

    /// Adds a dashed line across the chart, for example at chance level.
    pub fn reference(mut self, y: f64, label: &str) -> Self {
        self.references.push((y, label.into()));
        self
    }

    /// Sets the label of the x axis.
    pub fn x_label(mut self, label: &str) -> Self {
        self.x_label = Some(label.into());
        self
    }

    /// Sets the label of the y axis.
    pub fn y_label(mut self, label: &str) -> Self {
        self.y_label = Some(label.into());
        self
    }

    /// Sets the range of x that is shown.
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.x_range = Some((low, high));
        self
    }

    /// Sets the range of y that is shown.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    /// Makes the x axis logarithmic. Points that are not positive are left out.
    pub fn log_x(mut self) -> Self {
        self.log_x = true;
        self
    }

    /// Makes the y axis logarithmic. Points that are not positive are left out.
    pub fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// Sets width and height in logical pixels. Default: 420 × 280.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width.into(), height.into());
        self
    }

    /// Draws the chart.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a chart without lines, an invalid range, or a size below 160 × 120;
    /// [`Error::Shape`] for a line whose x, y and band differ in length; [`Error::Unknown`] for a
    /// missing column.
    pub fn figure(&self) -> Result<Figure> {
        if let Some(problem) = &self.problem {
            return Err(Error::unknown(problem.clone()));
        }
        if self.lines.is_empty() {
            return Err(Error::invalid(
                "expected at least one line in a chart, found none: add .line(label, &x, &y)",
            ));
        }
        for line in &self.lines {
            let n = line.x.len();
            let band = line.band.iter().flat_map(|(l, h)| [l.len(), h.len()]);
            if let Some(m) = [line.y.len()].into_iter().chain(band).find(|m| *m != n) {
                return Err(Error::shape(format!(
                    "expected the same number of values of x, y and the band in the line “{}”, found {n} values of x and {m} of y or the band",
                    line.label
                )));
            }
        }
        check_size(self.size)?;
        check_range("x", self.x_range, self.log_x)?;
        check_range("y", self.y_range, self.log_y)?;

        let xs = self.lines.iter().flat_map(|l| l.x.iter().copied());
        let ys = self.lines.iter().flat_map(|l| {
            let band = l.band.iter().flat_map(|(a, b)| a.iter().chain(b).copied());
            l.y.iter().copied().chain(band)
        });
        // A single outlier would flatten all lines, so with smoothing the range follows the
        // means.
        let means: Vec<Vec<f64>> = self
            .lines
            .iter()
            .map(|l| moving_mean(&l.y, self.smooth))
            .collect();
        let ys: Vec<f64> = if self.smooth > 1 {
            means.iter().flatten().copied().collect()
        } else {
            ys.collect()
        };
        let ys = ys.into_iter().chain(self.references.iter().map(|r| r.0));
        let pad = if self.smooth > 1 { 0.12 } else { 0.06 };
        let x = Axis::over(xs, self.x_range, self.log_x, 0.0, self.x_label.clone());
        let y = Axis::over(ys, self.y_range, self.log_y, pad, self.y_label.clone());
        let legend: Vec<(String, Colour, Key)> = self
            .lines
            .iter()
            .enumerate()
            .filter(|(_, l)| !l.label.is_empty())
            .map(|(i, l)| (l.label.clone(), Colour::palette(i), Key::Line))
            .collect();
        let legend = [legend, axes::references(&self.references)].concat();
        let mut axes = Axes::new(self.size, &self.title, &legend, (x, y), &Labels::default())?;
        self.draw(&mut axes, &means).map_err(failed)?;
        axes.figure(&self.title, self.rows())
    }

    fn draw(&self, axes: &mut Axes, means: &[Vec<f64>]) -> Drawn {
        axes.inside(true);
        for (i, line) in self.lines.iter().enumerate() {
            if let Some((low, high)) = &line.band {
                for run in runs(&line.x, low, self) {
                    let lower = run.clone().map(|j| (line.x[j], low[j]));
                    let upper = run.clone().rev().map(|j| (line.x[j], high[j]));
                    let outline: Vec<(f64, f64)> = lower.chain(upper).collect();
                    axes.draw([Polygon::new(outline, Colour::palette(i).mix(0.18))])?;
                }
            }
        }
        for (i, line) in self.lines.iter().enumerate() {
            let colour = Colour::palette(i);
            if self.smooth > 1 {
                self.trace(axes, &line.x, &line.y, colour.with_alpha(0.25), 1.0)?;
                self.trace(axes, &line.x, &means[i], colour, 2.0)?;
            } else {
                self.trace(axes, &line.x, &line.y, colour, 2.0)?;
            }
        }
        axes.inside(false);
        for (i, line) in self.lines.iter().enumerate().filter(|_| self.dots) {
            let seen = |s: f64| (0.0..=1.0).contains(&s);
            let points = runs(&line.x, &line.y, self).into_iter().flatten();
            let points = points
                .map(|j| (line.x[j], line.y[j]))
                .filter(|(x, y)| seen(axes.x().share(*x)) && seen(axes.y().share(*y)));
            axes.draw(points.map(|at| Circle::new(at, units(3.0), Colour::palette(i).filled())))?;
        }
        for (i, (value, _)) in self.references.iter().enumerate() {
            axes.reference(*value, axes::reference_colour(i))?;
        }
        axes.close(true)
    }

    /// Returns every point as it was given, without smoothing.
    fn rows(&self) -> Vec<Vec<String>> {
        let or = |label: &Option<String>, other: &str| label.clone().unwrap_or(other.into());
        let header = [
            "line",
            &or(&self.x_label, "x"),
            &or(&self.y_label, "y"),
            "low",
            "high",
        ];
        let mut rows = vec![super::texts(header)];
        for line in &self.lines {
            for (i, (x, y)) in line.x.iter().zip(&line.y).enumerate() {
                let (low, high) = match &line.band {
                    Some((low, high)) => (low[i].to_string(), high[i].to_string()),
                    None => Default::default(),
                };
                rows.push(vec![
                    line.label.clone(),
                    x.to_string(),
                    y.to_string(),
                    low,
                    high,
                ]);
            }
        }
        rows
    }

    fn trace(&self, axes: &Axes, x: &[f64], y: &[f64], colour: Colour, width: f64) -> Drawn {
        for run in runs(x, y, self) {
            let points: Vec<(f64, f64)> = run.map(|j| (x[j], y[j])).collect();
            match points[..] {
                [at] => axes.draw([Circle::new(at, units(width * 1.5), colour.filled())])?,
                _ => axes.draw(LineSeries::new(points, stroke(colour, width)))?,
            }
        }
        Ok(())
    }

    fn add(
        mut self,
        label: &str,
        x: Vec<f64>,
        y: Vec<f64>,
        band: Option<(Vec<f64>, Vec<f64>)>,
    ) -> Self {
        self.lines.push(Line {
            label: label.into(),
            x,
            y,
            band,
        });
        self
    }
}

/// Returns the ranges of consecutive points that can be drawn.
fn runs(x: &[f64], y: &[f64], chart: &Chart) -> Vec<std::ops::Range<usize>> {
    let good = |i: usize| {
        let ok = |v: f64, log: bool| v.is_finite() && (!log || v > 0.0);
        ok(x[i], chart.log_x) && ok(y[i], chart.log_y)
    };
    let mut found = Vec::new();
    let mut start = None;
    for i in 0..=x.len() {
        let here = i < x.len() && good(i);
        match (here, start) {
            (true, None) => start = Some(i),
            (false, Some(s)) => {
                found.push(s..i);
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// Returns the mean of the finite values among each value and `window / 2` values on either side.
fn moving_mean(values: &[f64], window: usize) -> Vec<f64> {
    (0..values.len())
        .map(|i| {
            let half = window / 2;
            let part = &values[i.saturating_sub(half)..(i + half + 1).min(values.len())];
            let good: Vec<f64> = part.iter().copied().filter(|v| v.is_finite()).collect();
            good.iter().sum::<f64>() / good.len() as f64
        })
        .collect()
}

pub(super) fn check_size((width, height): (f64, f64)) -> Result<()> {
    if width < 160.0 || height < 120.0 {
        return Err(Error::invalid(format!(
            "expected a chart of at least 160 × 120 logical pixels, found {width} × {height}"
        )));
    }
    Ok(())
}

pub(super) fn check_range(axis: &str, range: Option<(f64, f64)>, log: bool) -> Result<()> {
    match range {
        Some((low, high)) if !(low < high && low.is_finite() && high.is_finite()) => {
            Err(Error::invalid(format!(
                "expected low < high for the range of {axis}, found {low} and {high}"
            )))
        }
        Some((low, _)) if log && low <= 0.0 => Err(Error::invalid(format!(
            "expected a positive range for the logarithmic axis {axis}, found a range that begins at {low}"
        ))),
        _ => Ok(()),
    }
}
