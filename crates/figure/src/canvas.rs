//! A drawing as a list of shapes, which is written as PNG, SVG or PDF.

use super::font::{self, Face, Line, Piece, Typeface};
use super::style::Colour;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A picture's pixels: 8-bit RGB, row by row.
#[derive(Clone, PartialEq)]
pub(crate) struct Pixels {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({} × {})", self.width, self.height)
    }
}

/// The part of a text that is at its `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A shape. Lengths are logical pixels (1/96 inch), and y points downwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Fill {
        points: Vec<[f64; 2]>,
        colour: Colour,
    },
    Stroke {
        points: Vec<[f64; 2]>,
        colour: Colour,
        width: f64,
        dash: Option<[f64; 2]>,
    },
    Rect {
        area: [f64; 4],
        radius: f64,
        fill: Option<Colour>,
        stroke: Option<(Colour, f64)>,
    },
    Text {
        at: [f64; 2],
        text: String,
        /// The text as glyphs, so that every format and every later call draws the same glyphs.
        line: Line,
        size: f64,
        colour: Colour,
        /// Read from bottom to top.
        upwards: bool,
    },
    Image {
        area: [f64; 4],
        pixels: Arc<Pixels>,
    },
}

/// A shape that is drawn only inside `clip` (left, top, width, height), if that is set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub shape: Shape,
    pub clip: Option<[f64; 4]>,
}

/// A list of shapes on a white background.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Canvas {
    pub width: f64,
    pub height: f64,
    pub items: Vec<Item>,
    clip: Option<[f64; 4]>,
}

impl Canvas {
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            width: width.ceil(),
            height: height.ceil(),
            ..Self::default()
        }
    }

    /// Restricts the shapes that follow to this area. `None` ends the restriction.
    pub fn clip(&mut self, area: Option<[f64; 4]>) {
        self.clip = area;
    }

    pub fn push(&mut self, shape: Shape) {
        let clip = self.clip;
        self.items.push(Item { shape, clip });
    }

    pub fn fill(&mut self, points: Vec<[f64; 2]>, colour: Colour) {
        self.push(Shape::Fill { points, colour });
    }

    pub fn stroke(&mut self, points: Vec<[f64; 2]>, colour: Colour, width: f64) {
        self.push(Shape::Stroke {
            points,
            colour,
            width,
            dash: None,
        });
    }

    pub fn dashed(&mut self, points: Vec<[f64; 2]>, colour: Colour, width: f64, dash: [f64; 2]) {
        self.push(Shape::Stroke {
            points,
            colour,
            width,
            dash: Some(dash),
        });
    }

    pub fn rect(&mut self, area: [f64; 4], colour: Colour) {
        self.push(Shape::Rect {
            area,
            radius: 0.0,
            fill: Some(colour),
            stroke: None,
        });
    }

    pub fn rounded(
        &mut self,
        area: [f64; 4],
        radius: f64,
        fill: Option<Colour>,
        stroke: Option<(Colour, f64)>,
    ) {
        self.push(Shape::Rect {
            area,
            radius,
            fill,
            stroke,
        });
    }

    pub fn circle(&mut self, [x, y]: [f64; 2], r: f64, colour: Colour) {
        self.rounded([x - r, y - r, 2.0 * r, 2.0 * r], r, Some(colour), None);
    }

    pub fn image(&mut self, area: [f64; 4], pixels: Arc<Pixels>) {
        self.push(Shape::Image { area, pixels });
    }

    /// A line of text whose baseline is at `y`.
    pub fn text(
        &mut self,
        [x, y]: [f64; 2],
        anchor: Anchor,
        face: Face,
        size: f64,
        colour: Colour,
        text: &str,
    ) {
        self.runs([x, y], anchor, size, colour, &[(face, text)]);
    }

    /// A line of text in several faces.
    pub fn runs(
        &mut self,
        [x, y]: [f64; 2],
        anchor: Anchor,
        size: f64,
        colour: Colour,
        runs: &[(Face, &str)],
    ) {
        let widths: Vec<f64> = runs.iter().map(|(f, t)| font::width(*f, size, t)).collect();
        let mut left = x - anchored(anchor, widths.iter().sum());
        for ((face, text), width) in runs.iter().zip(widths) {
            if !text.is_empty() {
                self.line_of_text([left, y], *face, size, colour, text, false);
            }
            left += width;
        }
    }

    /// A line of text whose baseline begins at `at`.
    pub fn line_of_text(
        &mut self,
        at: [f64; 2],
        face: Face,
        size: f64,
        colour: Colour,
        text: &str,
        upwards: bool,
    ) {
        self.push(Shape::Text {
            at,
            text: text.into(),
            line: font::shape(face, text),
            size,
            colour,
            upwards,
        });
    }

    /// Returns every line of text with the string that it was made from.
    pub fn texts(&self) -> impl Iterator<Item = (&Line, &str)> {
        self.items.iter().filter_map(|item| match &item.shape {
            Shape::Text { line, text, .. } => Some((line, text.as_str())),
            _ => None,
        })
    }

    /// Returns the characters that no font has.
    pub fn missing_characters(&self) -> BTreeSet<char> {
        let missing = self.texts().flat_map(|(line, _)| &line.missing);
        missing.copied().collect()
    }

    /// Returns the families of the fonts in use that are not shipped.
    pub fn other_fonts(&self) -> Vec<&'static str> {
        let pieces = self.texts().flat_map(|(line, _)| &line.pieces);
        let families = pieces.filter_map(|piece| match piece {
            Piece::Glyph {
                font: Typeface::Other(other),
                ..
            } => Some(other.family.as_str()),
            _ => None,
        });
        let families: BTreeSet<&str> = families.collect();
        families.into_iter().collect()
    }

    /// Draws another canvas with its upper left corner at (`dx`, `dy`).
    pub fn place(&mut self, other: &Canvas, dx: f64, dy: f64) {
        let moved = |a: [f64; 4]| [a[0] + dx, a[1] + dy, a[2], a[3]];
        for item in &other.items {
            let mut item = item.clone();
            item.clip = item.clip.map(moved);
            match &mut item.shape {
                Shape::Fill { points, .. } | Shape::Stroke { points, .. } => {
                    for p in points {
                        *p = [p[0] + dx, p[1] + dy];
                    }
                }
                Shape::Rect { area, .. } | Shape::Image { area, .. } => *area = moved(*area),
                Shape::Text { at, .. } => *at = [at[0] + dx, at[1] + dy],
            }
            self.items.push(item);
        }
    }
}

fn anchored(anchor: Anchor, width: f64) -> f64 {
    match anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => width / 2.0,
        Anchor::End => width,
    }
}
