//! The door to plotters: a [`Plot`] is an empty figure of a given size with a drawing area of
//! plotters. What plotters draws there becomes a [`Figure`] like every other: PNG, SVG and PDF,
//! with the shipped fonts. The crate's own charts, bars, histograms and heat maps are drawn in the
//! same way (`axes.rs`); `backend.rs` turns the calls of plotters into shapes.

use super::backend::text_in;
use super::canvas::Canvas;
use super::font::{self, Face};
use super::style::{Colour, LABEL, SMALL};
use super::{Figure, LONGEST, SCALE};
use crate::{Error, Result};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::style::Color as _;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

/// What drawing on an area of a [`Plot`] returns.
pub(super) type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<Infallible>>;

/// A drawing backend for plotters: what is drawn on [`Plot::area`] becomes a figure.
///
/// Text in the font `"sans-serif"` is set in the shipped font, `\n` in a text begins a new line,
/// and a [`Colour`](super::Colour) is a colour of plotters.
///
/// ```
/// use invariances_figure::{Colour, Plot};
/// use plotters::prelude::*;
/// let plot = Plot::new(400, 300)?.with_units(10);
/// let area = plot.area();
/// let mut chart = ChartBuilder::on(&area).margin(plot.units(12.0))
///     .set_left_and_bottom_label_area_size(plot.units(40.0))
///     .build_cartesian_2d(-1.0..1.0, 0.0..1.0)?;
/// plot.mesh(&mut chart, "x", "x²")?;
/// let points = (-50..=50).map(|i| f64::from(i) / 50.0).map(|x| (x, x * x));
/// chart.draw_series(LineSeries::new(points, Colour::BLUE.stroke_width(20)))?;
/// let figure = plot.figure("A parabola")?;
/// assert!(figure.pdf()?.starts_with(b"%PDF"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plot {
    pub(super) canvas: Rc<RefCell<Canvas>>,
    /// Pixels of plotters per logical pixel.
    pub(super) units: u32,
}

impl Plot {
    /// Creates an empty figure of `width` × `height` logical pixels.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a side outside 1 to 8,192 logical pixels.
    pub fn new(width: u32, height: u32) -> Result<Self> {
        font::register_with_plotters();
        if width == 0 || height == 0 || f64::from(width.max(height)) * SCALE > LONGEST {
            return Err(Error::invalid(format!(
                "expected a figure with sides of 1 to {} logical pixels, found {width} × {height}",
                LONGEST / SCALE
            )));
        }
        Ok(Self::over(Canvas::new(width.into(), height.into())))
    }

    fn over(canvas: Canvas) -> Self {
        Self {
            canvas: Rc::new(RefCell::new(canvas)),
            units: 1,
        }
    }

    /// Creates an empty figure in which a position is exact to 1/[`FINE`] of a logical pixel.
    pub(super) fn fine(width: f64, height: f64) -> Self {
        font::register_with_plotters();
        Self::over(Canvas::new(width, height)).with_units(FINE)
    }

    /// Sets how many pixels of plotters a logical pixel has, from 1 to 1,000. Default: 1.
    ///
    /// The coordinates of plotters are whole numbers, so a curve on a grid of logical pixels has
    /// small steps. With 10 units it is smooth. All lengths are then in tenths of a logical pixel,
    /// see [`Plot::units`]: margins, sizes of text, widths of lines. The crate's own charts have
    /// 100 units. Call it before [`Plot::area`].
    pub fn with_units(self, units: u32) -> Self {
        Self {
            units: units.clamp(1, 1000),
            ..self
        }
    }

    /// Returns the drawing area of plotters that covers the whole figure. Every area of a plot
    /// draws on the same figure.
    pub fn area(&self) -> DrawingArea<Self, Shift> {
        self.clone().into_drawing_area()
    }

    /// Converts logical pixels to a length of plotters on this plot.
    pub fn units(&self, pixels: f64) -> i32 {
        (pixels * f64::from(self.units)).round() as i32
    }

    /// Draws the grid and the axes of a chart with the colours and text sizes of the crate's own
    /// charts. `x` and `y` are the names of the axes. An empty name is not drawn.
    ///
    /// # Errors
    /// [`Error::Drawing`] if plotters fails.
    pub fn mesh<X, Y>(
        &self,
        chart: &mut ChartContext<'_, Self, Cartesian2d<X, Y>>,
        x: &str,
        y: &str,
    ) -> Result<()>
    where
        X: Ranged + ValueFormatter<<X as Ranged>::ValueType>,
        Y: Ranged + ValueFormatter<<Y as Ranged>::ValueType>,
    {
        let line = |colour: Colour| colour.stroke_width(self.units(1.0) as u32);
        let text = |size, colour| text_in(self.units, Face::Regular, size, colour);
        chart
            .configure_mesh()
            .light_line_style(Colour::GRID.with_alpha(0.0))
            .bold_line_style(line(Colour::GRID))
            .axis_style(line(Colour::GREY))
            .label_style(text(SMALL, Colour::GREY))
            .axis_desc_style(text(LABEL, Colour::INK))
            .set_all_tick_mark_size(self.units(4.0))
            .x_desc(x)
            .y_desc(y)
            .draw()
            .map_err(failed)
    }

    /// Returns a figure of everything that is drawn so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a figure that is too large, which [`Plot::new`] rules out.
    pub fn figure(&self, title: &str) -> Result<Figure> {
        Figure::new(self.canvas.borrow().clone(), title)
    }
}

impl Figure {
    /// Draws a figure of `width` × `height` logical pixels with plotters: a [`Plot`] for a single
    /// expression.
    ///
    /// ```
    /// use invariances_figure::Figure;
    /// use plotters::prelude::*;
    /// let figure = Figure::plot("A parabola", 400, 300, |area| {
    ///     let mut chart = ChartBuilder::on(area)
    ///         .set_all_label_area_size(30)
    ///         .build_cartesian_2d(-1.0..1.0, 0.0..1.0)?;
    ///     chart.configure_mesh().draw()?;
    ///     chart.draw_series(LineSeries::new((-50..=50).map(|i| f64::from(i) / 50.0).map(|x| (x, x * x)), &BLUE))?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), invariances_figure::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Drawing`] with the error of plotters or of `draw`; [`Error::Invalid`] for a side
    /// outside 1 to 8,192 logical pixels.
    pub fn plot<F>(title: &str, width: u32, height: u32, draw: F) -> Result<Self>
    where
        F: FnOnce(&DrawingArea<Plot, Shift>) -> std::result::Result<(), Box<dyn std::error::Error>>,
    {
        let plot = Plot::new(width, height)?;
        draw(&plot.area()).map_err(|e| Error::Drawing(e.to_string()))?;
        plot.figure(title)
    }
}

/// Units per logical pixel in the crate's own figures: the two decimals that an SVG file has.
pub(super) const FINE: u32 = 100;

/// Converts logical pixels to units of a [`Plot::fine`].
pub(super) fn units(pixels: f64) -> i32 {
    (pixels * f64::from(FINE)).round() as i32
}

/// Converts an error of plotters.
pub(super) fn failed(error: DrawingAreaErrorKind<Infallible>) -> Error {
    Error::Drawing(error.to_string())
}
