//! Writes a canvas as PDF: one page of the figure's size, shapes as vectors, images pixel by
//! pixel, text as text in the embedded fonts.
//!
//! Of each font only the glyphs that the figure uses are embedded, as a CID font (never Type 3),
//! so that conferences accept the file and a reader can search it. Fonts that are not shipped and
//! cannot be embedded (most of them variable fonts) are drawn as shapes.
//!
//! `pdf-writer` and `subsetter` do the parts that are not specific to figures. krilla 0.8 is built
//! on the same two crates and could replace this file; even without its default features it adds 13
//! crates. svg2pdf 0.13 starts from our SVG and adds 33, with a second `pdf-writer` (0.12).

use super::canvas::{Canvas, Pixels, Shape};
use super::embed::{Embedded, Subset, embed, name, packed, subset};
use super::font::{EM, Piece, Typeface};
use super::style::Colour;
use crate::{Error, Result};
use ab_glyph::OutlineCurve;
use pdf_writer::types::{LineCapStyle, LineJoinStyle};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str, TextStr};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Points (1/72 inch) per logical pixel (1/96 inch).
const POINTS: f64 = 0.75;
/// Distance of the control points, in radii, at which a cubic curve best approximates a quarter
/// of a circle.
const QUARTER: f64 = 0.552_284_75;

/// The resources that a page uses. Images and opacities are in the order of their first use.
#[derive(Default)]
struct Used {
    fonts: BTreeMap<Typeface, Embedded>,
    /// Fonts that are drawn as shapes.
    drawn: BTreeSet<Typeface>,
    images: Vec<Arc<Pixels>>,
    /// Opacities of fill and stroke, in thousandths.
    opacities: Vec<[u32; 2]>,
}

/// Writes a canvas with a width of `width` points. `configuration` is JSON for the document's
/// information.
pub(crate) fn draw(
    canvas: &Canvas,
    width: f64,
    title: &str,
    configuration: &str,
) -> Result<Vec<u8>> {
    let scale = width / canvas.width;
    let height = canvas.height * scale;
    let mut used = Used::default();
    let (content, subsets) = loop {
        let content = used.page(canvas, [scale, height]);
        let subsets = used
            .fonts
            .iter()
            .map(|(font, embedded)| subset(*font, embedded));
        match subsets.collect::<std::result::Result<Vec<Subset>, _>>() {
            Ok(subsets) => break (packed(&content)?, subsets),
            // A font named by the user or found on the system: write the page again, with this
            // font drawn as shapes.
            Err((font @ Typeface::Other(_), _)) => {
                used = Used {
                    drawn: used.drawn.into_iter().chain([font]).collect(),
                    ..Used::default()
                };
            }
            Err((Typeface::Shipped(_), what)) => {
                return Err(Error::Drawing(format!(
                    "the font cannot be embedded: {what}"
                )));
            }
        }
    };

    let mut next = 0;
    let mut id = || {
        next += 1;
        Ref::new(next)
    };
    let (catalog, pages, page_id, content_id, info) = (id(), id(), id(), id(), id());
    let fonts: Vec<(Typeface, [Ref; 5])> = used
        .fonts
        .keys()
        .map(|font| (*font, [id(), id(), id(), id(), id()]))
        .collect();
    let images: Vec<Ref> = used.images.iter().map(|_| id()).collect();

    let mut pdf = Pdf::new();
    pdf.catalog(catalog).pages(pages);
    pdf.pages(pages).kids([page_id]).count(1);
    let mut page = pdf.page(page_id);
    page.media_box(Rect::new(0.0, 0.0, width as f32, height as f32));
    page.parent(pages).contents(content_id);
    let mut resources = page.resources();
    let mut list = resources.fonts();
    for (font, ids) in &fonts {
        list.pair(Name(name(*font).as_bytes()), ids[0]);
    }
    list.finish();
    let mut list = resources.x_objects();
    for (i, image) in images.iter().enumerate() {
        list.pair(Name(format!("I{i}").as_bytes()), *image);
    }
    list.finish();
    let mut list = resources.ext_g_states();
    for (i, [fill, stroke]) in used.opacities.iter().enumerate() {
        let opacity = |thousandths: u32| thousandths as f32 / 1000.0;
        list.insert(Name(format!("O{i}").as_bytes()))
            .start::<pdf_writer::writers::ExtGraphicsState>()
            .non_stroking_alpha(opacity(*fill))
            .stroking_alpha(opacity(*stroke));
    }
    list.finish();
    resources.finish();
    page.finish();
    pdf.stream(content_id, &content).filter(Filter::FlateDecode);
    for (pixels, image) in used.images.iter().zip(&images) {
        let data = packed(&pixels.rgb)?;
        let mut image = pdf.image_xobject(*image, &data);
        image.filter(Filter::FlateDecode);
        image
            .width(pixels.width as i32)
            .height(pixels.height as i32);
        image.color_space().device_rgb();
        image.bits_per_component(8).interpolate(false);
    }
    for (((font, ids), embedded), subset) in fonts.iter().zip(used.fonts.values()).zip(&subsets) {
        embed(&mut pdf, *font, ids, embedded, subset)?;
    }
    let mut about = pdf.document_info(info);
    about
        .title(TextStr(title))
        .producer(TextStr(&format!("invariances {}", crate::VERSION)));
    about.pair(Name(b"invariances"), TextStr(configuration));
    about.finish();
    Ok(pdf.finish())
}

impl Used {
    /// Returns the operators that draw a canvas.
    fn page(&mut self, canvas: &Canvas, [scale, height]: [f64; 2]) -> Vec<u8> {
        let mut content = Content::new();
        // y points downwards in a canvas and upwards in a PDF.
        content.transform([scale, 0.0, 0.0, -scale, 0.0, height].map(|v| v as f32));
        for item in &canvas.items {
            content.save_state();
            if let Some([x, y, w, h]) = item.clip {
                content.rect(x as f32, y as f32, w as f32, h as f32);
                content.clip_nonzero().end_path();
            }
            self.shape(&mut content, &item.shape);
            content.restore_state();
        }
        content.finish().into_vec()
    }

    fn opacity(&mut self, content: &mut Content, fill: f32, stroke: f32) {
        if fill >= 1.0 && stroke >= 1.0 {
            return;
        }
        let wanted = [fill, stroke].map(|a| (a.clamp(0.0, 1.0) * 1000.0).round() as u32);
        let known = self.opacities.iter().position(|o| *o == wanted);
        let place = known.unwrap_or_else(|| {
            self.opacities.push(wanted);
            self.opacities.len() - 1
        });
        content.set_parameters(Name(format!("O{place}").as_bytes()));
    }

    fn shape(&mut self, content: &mut Content, shape: &Shape) {
        match shape {
            Shape::Fill { points, colour } => {
                self.opacity(content, colour.alpha, 1.0);
                fill_colour(content, *colour);
                if path(content, points) {
                    content.close_path().fill_nonzero();
                }
            }
            Shape::Stroke {
                points,
                colour,
                width,
                dash,
            } => {
                self.opacity(content, 1.0, colour.alpha);
                stroke_colour(content, *colour, *width);
                if let Some(dash) = dash {
                    content.set_dash_pattern(dash.map(|v| v as f32), 0.0);
                } else {
                    content.set_line_join(LineJoinStyle::RoundJoin);
                }
                if path(content, points) {
                    content.stroke();
                }
            }
            Shape::Rect {
                area,
                radius,
                fill,
                stroke,
            } => {
                let alpha = |c: &Option<Colour>| c.map_or(1.0, |c| c.alpha);
                self.opacity(content, alpha(fill), alpha(&stroke.map(|(c, _)| c)));
                if let Some(colour) = fill {
                    fill_colour(content, *colour);
                }
                if let Some((colour, width)) = stroke {
                    stroke_colour(content, *colour, *width);
                }
                rounded(content, *area, *radius);
                match (fill, stroke) {
                    (Some(_), Some(_)) => content.fill_nonzero_and_stroke(),
                    (Some(_), None) => content.fill_nonzero(),
                    (None, Some(_)) => content.stroke(),
                    (None, None) => content.end_path(),
                };
            }
            Shape::Text {
                at,
                line,
                size,
                colour,
                upwards,
                ..
            } => self.text(content, (*at, *upwards), &line.pieces, *size, *colour),
            Shape::Image { area, pixels } => {
                let known = self.images.iter().position(|p| Arc::ptr_eq(p, pixels));
                let place = known.unwrap_or_else(|| {
                    self.images.push(pixels.clone());
                    self.images.len() - 1
                });
                let [x, y, w, h] = area.map(|v| v as f32);
                content.transform([w, 0.0, 0.0, -h, x, y + h]);
                content.x_object(Name(format!("I{place}").as_bytes()));
            }
        }
    }

    fn text(
        &mut self,
        content: &mut Content,
        (at, upwards): ([f64; 2], bool),
        pieces: &[Piece],
        size: f64,
        colour: Colour,
    ) {
        self.opacity(content, colour.alpha, 1.0);
        fill_colour(content, colour);
        // Converts from units of the em, y upwards, to the canvas.
        let k = size / EM;
        let place = |x: f64, y: f64| match upwards {
            false => [at[0] + k * x, at[1] - k * y],
            true => [at[0] - k * y, at[1] - k * x],
        };
        let turn = match upwards {
            false => [1.0, 0.0, 0.0, -1.0],
            true => [0.0, -1.0, -1.0, 0.0],
        };
        let (mut bars, mut shapes) = (Vec::new(), Vec::new());
        let mut runs: Vec<Run> = Vec::new();
        for piece in pieces {
            match *piece {
                Piece::Bar(bar) => bars.push(bar),
                Piece::Glyph { font, id, x, y, .. } if self.drawn.contains(&font) => {
                    shapes.push((font.outline(id), x, y));
                }
                Piece::Glyph {
                    font,
                    id,
                    x,
                    y,
                    character,
                } => {
                    let embedded = self.fonts.entry(font).or_default();
                    let new = embedded.glyphs.remap(id);
                    embedded.characters.entry(new).or_insert(character);
                    // Consecutive glyphs at their own advance widths form one string.
                    if runs
                        .last()
                        .is_none_or(|r| r.font != font || r.end != [x, y])
                    {
                        runs.push(Run {
                            font,
                            from: [x, y],
                            end: [x, y],
                            glyphs: Vec::new(),
                        });
                    }
                    if let Some(run) = runs.last_mut() {
                        run.glyphs.extend(new.to_be_bytes());
                        run.end = [x + font.advance(id), y];
                    }
                }
            }
        }
        if !runs.is_empty() {
            content.begin_text();
            let mut set = None;
            for run in &runs {
                if set != Some(run.font) {
                    content.set_font(Name(name(run.font).as_bytes()), size as f32);
                    set = Some(run.font);
                }
                let [a, b, c, d] = turn;
                let [x, y] = place(run.from[0], run.from[1]);
                content.set_text_matrix([a, b, c, d, x, y].map(|v| v as f32));
                content.show(Str(&run.glyphs));
            }
            content.end_text();
        }
        for (curves, x, y) in shapes {
            if outline(content, &curves, |p| {
                place(x + f64::from(p.x), y + f64::from(p.y))
            }) {
                content.fill_nonzero();
            }
        }
        for [x, y, w, h] in bars {
            let ([x0, y0], [x1, y1]) = (place(x, y), place(x + w, y + h));
            let corner = [x0.min(x1), y0.min(y1)].map(|v| v as f32);
            let sides = [(x1 - x0).abs(), (y1 - y0).abs()].map(|v| v as f32);
            content.rect(corner[0], corner[1], sides[0], sides[1]);
            content.fill_nonzero();
        }
    }
}

/// Consecutive glyphs of one font.
struct Run {
    font: Typeface,
    from: [f64; 2],
    end: [f64; 2],
    /// Their numbers in the embedded font, two bytes each.
    glyphs: Vec<u8>,
}

/// Adds the outline of a glyph to the path. Returns whether it has any curves.
fn outline(
    content: &mut Content,
    curves: &[OutlineCurve],
    put: impl Fn(ab_glyph::Point) -> [f64; 2],
) -> bool {
    let put = |p| put(p).map(|v| v as f32);
    let mut last = None;
    for curve in curves {
        let (OutlineCurve::Line(start, _)
        | OutlineCurve::Quad(start, ..)
        | OutlineCurve::Cubic(start, ..)) = *curve;
        if last != Some(start) {
            let [x, y] = put(start);
            content.move_to(x, y);
        }
        let end = match *curve {
            OutlineCurve::Line(_, end) => {
                let [x, y] = put(end);
                content.line_to(x, y);
                end
            }
            OutlineCurve::Quad(a, b, end) => {
                // The cubic curve that equals this quadratic curve.
                let near = |p: ab_glyph::Point| {
                    let mix = |p: f32, b: f32| p + (b - p) * 2.0 / 3.0;
                    ab_glyph::point(mix(p.x, b.x), mix(p.y, b.y))
                };
                let ([x1, y1], [x2, y2], [x, y]) = (put(near(a)), put(near(end)), put(end));
                content.cubic_to(x1, y1, x2, y2, x, y);
                end
            }
            OutlineCurve::Cubic(_, b, c, end) => {
                let ([x1, y1], [x2, y2], [x, y]) = (put(b), put(c), put(end));
                content.cubic_to(x1, y1, x2, y2, x, y);
                end
            }
        };
        last = Some(end);
    }
    last.is_some()
}

/// Adds a line through points to the path. Returns whether there is anything to draw.
fn path(content: &mut Content, points: &[[f64; 2]]) -> bool {
    for (i, [x, y]) in points.iter().enumerate() {
        let (x, y) = (*x as f32, *y as f32);
        match i {
            0 => content.move_to(x, y),
            _ => content.line_to(x, y),
        };
    }
    points.len() > 1
}

fn rounded(content: &mut Content, [x, y, w, h]: [f64; 4], radius: f64) {
    let r = radius.min(w / 2.0).min(h / 2.0);
    if r <= 0.0 {
        content.rect(x as f32, y as f32, w as f32, h as f32);
        return;
    }
    let (right, bottom, k) = (x + w, y + h, r * (1.0 - QUARTER));
    content.move_to((x + r) as f32, y as f32);
    let mut side = |to: [f64; 2], curve: [f64; 6]| {
        let [c0, c1, c2, c3, c4, c5] = curve.map(|v| v as f32);
        content.line_to(to[0] as f32, to[1] as f32);
        content.cubic_to(c0, c1, c2, c3, c4, c5);
    };
    side([right - r, y], [right - k, y, right, y + k, right, y + r]);
    side(
        [right, bottom - r],
        [right, bottom - k, right - k, bottom, right - r, bottom],
    );
    side(
        [x + r, bottom],
        [x + k, bottom, x, bottom - k, x, bottom - r],
    );
    side([x, y + r], [x, y + k, x + k, y, x + r, y]);
    content.close_path();
}

fn parts(colour: Colour) -> [f32; 3] {
    [colour.red, colour.green, colour.blue].map(|v| f32::from(v) / 255.0)
}

fn fill_colour(content: &mut Content, colour: Colour) {
    let [r, g, b] = parts(colour);
    content.set_fill_rgb(r, g, b);
}

fn stroke_colour(content: &mut Content, colour: Colour, width: f64) {
    let [r, g, b] = parts(colour);
    content.set_stroke_rgb(r, g, b);
    content.set_line_width(width as f32);
    content.set_line_cap(LineCapStyle::ButtCap);
}

/// Returns the width in points of a canvas at its own size.
pub(crate) fn natural_width(canvas: &Canvas) -> f64 {
    canvas.width * POINTS
}
