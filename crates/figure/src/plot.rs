//! A plotters backend that draws on a canvas: a chart made with plotters is shown and saved like
//! every other figure.

use super::canvas::Canvas;
use super::font::{self, Face};
use super::style::Colour;
use super::{Figure, LONGEST, SCALE};
use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontStyle, FontTransform,
};
use std::convert::Infallible;

type Drawn = std::result::Result<(), DrawingErrorKind<Infallible>>;

impl Figure {
    /// Draws a figure of `width` × `height` logical pixels with plotters. Text in the font
    /// `"sans-serif"` is set in the embedded font.
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
        F: FnOnce(
            &DrawingArea<Plot<'_>, Shift>,
        ) -> std::result::Result<(), Box<dyn std::error::Error>>,
    {
        font::register_with_plotters();
        if width == 0 || height == 0 || f64::from(width.max(height)) * SCALE > LONGEST {
            return Err(Error::invalid(format!(
                "expected a figure with sides of 1 to {} logical pixels, found {width} × {height}",
                LONGEST / SCALE
            )));
        }
        let mut canvas = Canvas::new(width.into(), height.into());
        let area = Plot {
            canvas: &mut canvas,
        }
        .into_drawing_area();
        draw(&area).map_err(|e| Error::Drawing(e.to_string()))?;
        drop(area);
        Self::new(canvas, title)
    }
}

/// The plotters backend of [`Figure::plot`].
pub struct Plot<'a> {
    canvas: &'a mut Canvas,
}

fn colour(c: BackendColor) -> Colour {
    let (red, green, blue) = c.rgb;
    Colour::rgb(red, green, blue).with_alpha(c.alpha as f32)
}

/// Returns the centre of a pixel. The coordinates of plotters are pixel indices, and lines run
/// through the pixels' centres.
fn middle((x, y): BackendCoord) -> [f64; 2] {
    [f64::from(x) + 0.5, f64::from(y) + 0.5]
}

impl DrawingBackend for Plot<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.canvas.width as u32, self.canvas.height as u32)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, c: BackendColor) -> Drawn {
        self.canvas.rect([x.into(), y.into(), 1.0, 1.0], colour(c));
        Ok(())
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        let points = path.into_iter().map(middle).collect();
        let width = f64::from(style.stroke_width());
        self.canvas.stroke(points, colour(style.color()), width);
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let c = colour(style.color());
        let ([x0, y0], [x1, y1]) = (middle(from), middle(to));
        let (x, y, w, h) = (x0.min(x1), y0.min(y1), (x1 - x0).abs(), (y1 - y0).abs());
        if fill {
            self.canvas.rect([x - 0.5, y - 0.5, w + 1.0, h + 1.0], c);
        } else {
            let width = f64::from(style.stroke_width());
            self.canvas
                .rounded([x, y, w, h], 0.0, None, Some((c, width)));
        }
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        centre: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let c = colour(style.color());
        let ([x, y], r) = (middle(centre), f64::from(radius));
        let stroke = (!fill).then(|| (c, f64::from(style.stroke_width())));
        let area = [x - r, y - r, 2.0 * r, 2.0 * r];
        self.canvas.rounded(area, r, fill.then_some(c), stroke);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn {
        let points = corners.into_iter().map(middle).collect();
        self.canvas.fill(points, colour(style.color()));
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Drawn {
        let face = match style.style() {
            FontStyle::Bold => Face::Bold,
            FontStyle::Italic | FontStyle::Oblique => Face::Italic,
            FontStyle::Normal => Face::Regular,
        };
        // The text size of plotters is the height from the lowest descender to the highest
        // ascender.
        let size = style.size() / 1.21;
        let anchor = style.anchor();
        let width = font::width(face, size, text);
        let left = match anchor.h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let baseline = match anchor.v_pos {
            VPos::Top => 0.8 * size,
            VPos::Center => 0.36 * size,
            VPos::Bottom => -0.2 * size,
        };
        let (dx, dy, upwards) = match style.transform() {
            FontTransform::None | FontTransform::Rotate180 => (left, baseline, false),
            FontTransform::Rotate270 => (baseline, -left, true),
            // Text that should read downwards is drawn upwards in the same place.
            FontTransform::Rotate90 => (0.72 * size - baseline, left + width, true),
        };
        let at = [f64::from(x) + dx, f64::from(y) + dy];
        self.canvas
            .line_of_text(at, face, size, colour(style.color()), text, upwards);
        Ok(())
    }
}
