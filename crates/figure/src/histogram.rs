//! Histograms of samples, with the standard normal density for comparison. plotters draws them as
//! `AreaSeries`: its `Histogram` counts on an axis whose numbers are the bins and separates the
//! bars, which hides one sample behind the other. What is ours is in `axes.rs`.

use super::axes::{Axes, Key, Labels};
use super::axis::Axis;
use super::backend::{Dashed, stroke};
use super::chart::{check_range, check_size};
use super::plot::{Drawn, failed};
use super::style::Colour;
use super::{Figure, numbers};
use crate::{Error, Result};
use plotters::series::AreaSeries;

/// A chart of the densities of samples. The standard normal density can be added, to see whether
/// v ~ N(0, 1).
///
/// ```
/// use invariances_figure::Histogram;
/// use invariances_ops::Rng;
/// let mut rng = Rng::new(0);
/// let v: Vec<f32> = (0..1000).map(|_| rng.normal_f32()).collect();
/// let figure = Histogram::new("v of held-out images").values("v", &v).normal().figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Histogram {
    title: String,
    samples: Vec<(String, Vec<f64>)>,
    normal: bool,
    bins: usize,
    range: Option<(f64, f64)>,
    x_label: Option<String>,
    size: (f64, f64),
}

impl Histogram {
    /// Creates a histogram without samples.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            samples: Vec::new(),
            normal: false,
            bins: 40,
            range: None,
            x_label: None,
            size: (420.0, 280.0),
        }
    }

    /// Adds samples. Values that are not finite are left out.
    pub fn values<T: Into<f64> + Copy>(mut self, label: &str, values: &[T]) -> Self {
        self.samples.push((label.into(), numbers(values)));
        self
    }

    /// Adds the density of N(0, 1), and sets the range from −4 to 4 if [`Histogram::range`] sets
    /// no other.
    pub fn normal(mut self) -> Self {
        self.normal = true;
        self
    }

    /// Sets the number of bins. Default: 40.
    pub fn bins(mut self, bins: usize) -> Self {
        self.bins = bins;
        self
    }

    /// Sets the range that the bins divide. Samples outside the range belong to no bin, but they
    /// count in the total by which the densities are divided.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Sets the label of the x axis: what the samples are.
    pub fn x_label(mut self, label: &str) -> Self {
        self.x_label = Some(label.into());
        self
    }

    /// Sets width and height in logical pixels. Default: 420 × 280.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width.into(), height.into());
        self
    }

    /// Draws the histogram.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a finite sample, for 0 or more than 10,000 bins, for an empty
    /// range, or for a size below 160 × 120.
    pub fn figure(&self) -> Result<Figure> {
        check_size(self.size)?;
        check_range("the histogram", self.range, false)?;
        let all = || {
            self.samples
                .iter()
                .flat_map(|(_, v)| v.iter().copied())
                .filter(|v| v.is_finite())
        };
        if all().next().is_none() || self.bins == 0 || self.bins > 10_000 {
            return Err(Error::invalid(format!(
                "expected finite values and 1 to 10000 bins for a histogram, found {} values and {} bins",
                all().count(),
                self.bins
            )));
        }
        let fixed = self.range.or(self.normal.then_some((-4.0, 4.0)));
        let x = Axis::over(all(), fixed, false, 0.0, self.x_label.clone());
        let step = (x.high - x.low) / self.bins as f64;
        let mut densities = Vec::new();
        for (_, values) in &self.samples {
            let mut counts = vec![0.0; self.bins];
            let mut total = 0.0;
            for v in values.iter().filter(|v| v.is_finite()) {
                total += 1.0;
                if *v >= x.low && *v <= x.high {
                    counts[(((v - x.low) / step) as usize).min(self.bins - 1)] += 1.0;
                }
            }
            let density = |c: f64| if total > 0.0 { c / (total * step) } else { 0.0 };
            densities.push(counts.into_iter().map(density).collect::<Vec<f64>>());
        }
        let peak = if self.normal {
            Some(normal_density(0.0))
        } else {
            None
        };
        let heights = densities.iter().flatten().copied().chain(peak).chain([0.0]);
        let y = Axis::over(heights, None, false, 0.08, Some("density".into()));
        let mut legend: Vec<(String, Colour, Key)> = self
            .samples
            .iter()
            .enumerate()
            .map(|(i, (label, _))| (label.clone(), Colour::palette(i), Key::Square))
            .collect();
        if self.normal {
            legend.push(("N(0, 1)".into(), Colour::INK, Key::Dashed));
        }
        let low = x.low;
        let mut axes = Axes::new(self.size, &self.title, &legend, (x, y), &Labels::default())?;
        self.draw(&mut axes, &densities, step).map_err(failed)?;
        let mut rows = vec![super::texts(["sample", "from", "to", "density"])];
        for ((label, _), density) in self.samples.iter().zip(&densities) {
            for (b, d) in density.iter().enumerate() {
                let from = low + b as f64 * step;
                let numbers = [from, from + step, *d].map(|v| v.to_string());
                rows.push([vec![label.clone()], numbers.to_vec()].concat());
            }
        }
        axes.figure(&self.title, rows)
    }

    fn draw(&self, axes: &mut Axes, densities: &[Vec<f64>], step: f64) -> Drawn {
        let (low, high) = (axes.x().low, axes.x().high);
        axes.inside(true);
        for (i, density) in densities.iter().enumerate() {
            let colour = Colour::palette(i);
            let mut outline = vec![(low, 0.0)];
            for (b, d) in density.iter().enumerate() {
                let from = low + b as f64 * step;
                outline.extend([(from, *d), (from + step, *d)]);
            }
            outline.push((high, 0.0));
            let area = AreaSeries::new(outline, 0.0, colour.with_alpha(0.3));
            axes.draw(area.border_style(stroke(colour, 1.2)))?;
        }
        if self.normal {
            let curve = (0..=160).map(|i| low + (high - low) * f64::from(i) / 160.0);
            axes.draw([Dashed {
                points: curve.map(|v| (v, normal_density(v))).collect(),
                colour: Colour::INK,
                width: 1.5,
                dash: [5.0, 3.0],
            }])?;
        }
        axes.inside(false);
        axes.close(true)
    }
}

fn normal_density(v: f64) -> f64 {
    (-0.5 * v * v).exp() / std::f64::consts::TAU.sqrt()
}
