//! What plotters asks of a drawing backend, as shapes on the canvas; and the elements and styles
//! of plotters that have the crate's look.
//!
//! With one unit per logical pixel, a coordinate is the index of a pixel, as in every backend of
//! plotters: lines run through the middle of pixels, and a rectangle includes its last pixel. With
//! more units it is a point.

use super::font::{self, Face};
use super::plot::{FINE, Plot, units};
use super::style::Colour;
use plotters::element::{Drawable, PointCollection};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontDesc, FontFamily, ShapeStyle, TextStyle};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontStyle, FontTransform,
};
use std::convert::Infallible;

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// The text size of plotters is the height from the lowest descender to the highest ascender.
const TALL: f64 = 1.21;
/// Distance between the lines of a text, as a multiple of the text size.
const LINES: f64 = 1.2;

impl Plot {
    fn pixels(&self, v: impl Into<f64>) -> f64 {
        v.into() / f64::from(self.units)
    }

    /// Returns 1 if a coordinate is the index of a pixel, 0 if it is a point.
    fn whole(&self) -> f64 {
        f64::from(u8::from(self.units == 1))
    }

    fn point(&self, (x, y): BackendCoord) -> [f64; 2] {
        [x, y].map(|v| self.pixels(v) + 0.5 * self.whole())
    }

    fn points(&self, path: impl IntoIterator<Item = BackendCoord>) -> Vec<[f64; 2]> {
        path.into_iter().map(|p| self.point(p)).collect()
    }

    /// Returns the points of a path. A horizontal or vertical line is moved to the middle of the
    /// nearest pixels if `sharp` is set.
    fn path(&self, path: impl IntoIterator<Item = BackendCoord>, sharp: bool) -> Vec<[f64; 2]> {
        let path: Vec<BackendCoord> = path.into_iter().collect();
        let mut points = self.points(path.iter().copied());
        if let [a, b] = path[..]
            && sharp
        {
            for (i, (a, b)) in [(a.0, b.0), (a.1, b.1)].into_iter().enumerate() {
                if a == b {
                    points
                        .iter_mut()
                        .for_each(|p| p[i] = self.pixels(a).round() + 0.5);
                }
            }
        }
        points
    }

    /// Restricts what is drawn next to this area in logical pixels, or ends the restriction.
    pub(super) fn clip(&self, area: Option<[f64; 4]>) {
        self.canvas.borrow_mut().clip(area);
    }
}

fn colour(c: BackendColor) -> Colour {
    let (red, green, blue) = c.rgb;
    Colour::rgb(red, green, blue).with_alpha(c.alpha as f32)
}

impl DrawingBackend for Plot {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        let canvas = self.canvas.borrow();
        let side = |v: f64| v as u32 * self.units;
        (side(canvas.width), side(canvas.height))
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, c: BackendColor) -> Drawn {
        let [x, y, side] = [self.pixels(x), self.pixels(y), self.pixels(1)];
        let mut canvas = self.canvas.borrow_mut();
        canvas.rect([x, y, side, side], colour(c));
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
        let (c, width) = (style.color(), self.pixels(style.stroke_width()));
        if c.alpha > 0.0 {
            let points = self.path(path, width <= 1.0);
            self.canvas.borrow_mut().stroke(points, colour(c), width);
        }
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let (c, width) = (colour(style.color()), self.pixels(style.stroke_width()));
        let ([x0, y0], [x1, y1]) = (self.point(from), self.point(to));
        let (x, y, w, h) = (x0.min(x1), y0.min(y1), (x1 - x0).abs(), (y1 - y0).abs());
        let more = self.whole();
        let mut canvas = self.canvas.borrow_mut();
        if fill {
            canvas.rect([x - more / 2.0, y - more / 2.0, w + more, h + more], c);
        } else {
            canvas.rounded([x, y, w, h], 0.0, None, Some((c, width)));
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
        let ([x, y], r) = (self.point(centre), self.pixels(radius));
        let stroke = (!fill).then(|| (c, self.pixels(style.stroke_width())));
        let area = [x - r, y - r, 2.0 * r, 2.0 * r];
        let mut canvas = self.canvas.borrow_mut();
        canvas.rounded(area, r, fill.then_some(c), stroke);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn {
        let points = self.points(corners);
        let mut canvas = self.canvas.borrow_mut();
        canvas.fill(points, colour(style.color()));
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
        let size = self.pixels(style.size()) / TALL;
        let anchor = style.anchor();
        let more = text.matches('\n').count() as f64 * LINES * size;
        let first = match anchor.v_pos {
            VPos::Top => 0.8 * size,
            VPos::Center => 0.36 * size - more / 2.0,
            VPos::Bottom => -0.2 * size - more,
        };
        let (x, y) = (self.pixels(x), self.pixels(y));
        let mut canvas = self.canvas.borrow_mut();
        for (i, line) in text.split('\n').enumerate() {
            let width = font::width(face, size, line);
            let left = match anchor.h_pos {
                HPos::Left => 0.0,
                HPos::Center => -width / 2.0,
                HPos::Right => -width,
            };
            let baseline = first + i as f64 * LINES * size;
            let (dx, dy, upwards) = match style.transform() {
                FontTransform::None | FontTransform::Rotate180 => (left, baseline, false),
                FontTransform::Rotate270 => (baseline, -left, true),
                // Text that should read downwards is drawn upwards in the same place.
                FontTransform::Rotate90 => (0.72 * size - baseline, left + width, true),
            };
            if !line.is_empty() {
                let c = colour(style.color());
                canvas.line_of_text([x + dx, y + dy], face, size, c, line, upwards);
            }
        }
        Ok(())
    }
}

/// A colour of the palette in the code of plotters.
impl Color for Colour {
    fn to_backend_color(&self) -> BackendColor {
        BackendColor {
            rgb: (self.red, self.green, self.blue),
            alpha: self.alpha.into(),
        }
    }
}

/// A dashed line as one path. The dashed line of plotters is one path per dash, which is hard to
/// edit in an SVG or PDF file.
pub(super) struct Dashed<C> {
    pub points: Vec<C>,
    pub colour: Colour,
    pub width: f64,
    pub dash: [f64; 2],
}

impl<'a, C: 'a> PointCollection<'a, C> for &'a Dashed<C> {
    type Point = &'a C;
    type IntoIter = &'a [C];

    fn point_iter(self) -> &'a [C] {
        &self.points
    }
}

impl<C> Drawable<Plot> for Dashed<C> {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        points: I,
        plot: &mut Plot,
        _: (u32, u32),
    ) -> Drawn {
        let points = plot.path(points, true);
        let mut canvas = plot.canvas.borrow_mut();
        canvas.dashed(points, self.colour, self.width, self.dash);
        Ok(())
    }
}

/// Returns the style of a line of `width` logical pixels on a [`Plot::fine`].
pub(super) fn stroke(colour: Colour, width: f64) -> ShapeStyle {
    colour.stroke_width(units(width) as u32)
}

/// Returns the style of text of `size` logical pixels on a [`Plot::fine`].
pub(super) fn text(face: Face, size: f64, colour: Colour) -> TextStyle<'static> {
    text_in(FINE, face, size, colour)
}

/// Returns the style of text of `size` logical pixels on a plot with this many units per pixel.
pub(super) fn text_in(units: u32, face: Face, size: f64, colour: Colour) -> TextStyle<'static> {
    let style = match face {
        Face::Bold => FontStyle::Bold,
        Face::Italic => FontStyle::Italic,
        Face::Regular | Face::Signs => FontStyle::Normal,
    };
    let size = size * TALL * f64::from(units);
    TextStyle {
        font: FontDesc::new(FontFamily::SansSerif, size, style),
        color: colour.to_backend_color(),
        pos: Pos::default(),
    }
}
