//! The door to plotters: a [`Plot`] is an empty figure of a given size with a drawing area of
//! plotters. What plotters draws there becomes a [`Figure`] like every other: PNG, SVG and PDF,
//! with the shipped fonts. The crate's own charts, bars, histograms and heat maps are drawn in the
//! same way (`axes.rs`); `backend.rs` turns the calls of plotters into shapes.

use super::canvas::Canvas;
use super::font;
use super::{Figure, LONGEST, SCALE};
use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
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
/// let mut chart = ChartBuilder::on(&area).margin(120)
///     .set_left_and_bottom_label_area_size(300)
///     .build_cartesian_2d(-1.0..1.0, 0.0..1.0)?;
/// chart.configure_mesh().label_style(("sans-serif", 130)).draw()?;
/// let points = (-50..=50).map(|i| f64::from(i) / 50.0).map(|x| (x, x * x));
/// chart.draw_series(LineSeries::new(points, Colour::BLUE.stroke_width(20)))?;
/// plot.figure("A parabola")?.pdf()?;
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
    /// small steps. With 10 units it is smooth; sizes of text, widths of lines and margins are
    /// then 10 times as large in numbers. Call it before [`Plot::area`].
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
