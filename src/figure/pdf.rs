//! A canvas as PDF: one page of the figure's size, shapes as vectors, images pixel by pixel, text as text in the embedded faces. What is embedded of a
//! face are the glyphs that the figure uses, as a CID font of compact outlines (never Type 3), so that conferences take the file and a reader can search it.

use super::canvas::{Canvas, Pixels, Shape};
use super::font::{self, Face, Piece};
use super::style::Colour;
use crate::{Error, Result};
use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::types::{
    CidFontType, FontFlags, LineCapStyle, LineJoinStyle, SystemInfo, UnicodeCmap,
};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str, TextStr};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use subsetter::GlyphRemapper;

/// Points (1/72 inch) in a logical pixel (1/96 inch).
const POINTS: f64 = 0.75;
/// By which a cubic curve comes nearest to a quarter of a circle.
const QUARTER: f64 = 0.552_284_75;

/// What a page uses, by the order in which it is first used.
#[derive(Default)]
struct Used {
    faces: BTreeMap<Face, Embedded>,
    images: Vec<Arc<Pixels>>,
    /// Opacities of fill and stroke, in thousandths.
    opacities: Vec<[u32; 2]>,
}

/// The glyphs of a face that a page uses, by their new numbers, and the characters that they stand for.
struct Embedded {
    glyphs: GlyphRemapper,
    characters: BTreeMap<u16, char>,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            glyphs: GlyphRemapper::new(),
            characters: BTreeMap::new(),
        }
    }
}

/// Writes a canvas, `width` points wide; `configuration` is JSON, kept with the document's information.
pub(crate) fn draw(
    canvas: &Canvas,
    width: f64,
    title: &str,
    configuration: &str,
) -> Result<Vec<u8>> {
    let scale = width / canvas.width;
    let height = canvas.height * scale;
    let mut used = Used::default();
    let mut content = Content::new();
    // y goes downwards in a canvas.
    content.transform([scale, 0.0, 0.0, -scale, 0.0, height].map(|v| v as f32));
    for item in &canvas.items {
        content.save_state();
        if let Some([x, y, w, h]) = item.clip {
            content.rect(x as f32, y as f32, w as f32, h as f32);
            content.clip_nonzero().end_path();
        }
        used.shape(&mut content, &item.shape);
        content.restore_state();
    }
    let content = packed(&content.finish())?;

    let mut next = 0;
    let mut id = || {
        next += 1;
        Ref::new(next)
    };
    let (catalog, pages, page_id, content_id, info) = (id(), id(), id(), id(), id());
    let fonts: Vec<(Face, [Ref; 5])> = used
        .faces
        .keys()
        .map(|face| (*face, [id(), id(), id(), id(), id()]))
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
    for (face, ids) in &fonts {
        list.pair(Name(name(*face).as_bytes()), ids[0]);
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
    for ((face, ids), embedded) in fonts.iter().zip(used.faces.values()) {
        embed(&mut pdf, *face, ids, embedded)?;
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
    fn face(&mut self, face: Face) -> &mut Embedded {
        self.faces.entry(face).or_default()
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
                text,
                face,
                size,
                colour,
                upwards,
            } => self.text(content, (*at, *upwards), text, (*face, *size), *colour),
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
        text: &str,
        (face, size): (Face, f64),
        colour: Colour,
    ) {
        self.opacity(content, colour.alpha, 1.0);
        fill_colour(content, colour);
        let em = face.units();
        // From font units, y upwards, to the canvas.
        let k = size / em;
        let place = |x: f64, y: f64| match upwards {
            false => [at[0] + k * x, at[1] - k * y],
            true => [at[0] - k * y, at[1] - k * x],
        };
        let turn = match upwards {
            false => [1.0, 0.0, 0.0, -1.0],
            true => [0.0, -1.0, -1.0, 0.0],
        };
        let (pieces, _) = font::shape(face, text);
        let mut bars = Vec::new();
        content.begin_text();
        content.set_font(Name(name(face).as_bytes()), size as f32);
        let mut run: Vec<u8> = Vec::new();
        let mut from = [0.0, 0.0];
        let mut end = [f64::NAN; 2];
        for piece in &pieces {
            match piece {
                Piece::Bar(bar) => bars.push(*bar),
                Piece::Glyph {
                    id,
                    x,
                    y,
                    character,
                } => {
                    // Glyphs that follow each other at their own widths are one string.
                    if [*x, *y] != end {
                        show(content, &mut run, turn, place(from[0], from[1]));
                        from = [*x, *y];
                    }
                    let embedded = self.face(face);
                    let new = embedded.glyphs.remap(*id);
                    embedded.characters.entry(new).or_insert(*character);
                    run.extend(new.to_be_bytes());
                    end = [x + face.advance(*id), *y];
                }
            }
        }
        show(content, &mut run, turn, place(from[0], from[1]));
        content.end_text();
        for [x, y, w, h] in bars {
            let ([x0, y0], [x1, y1]) = (place(x, y), place(x + w, y + h));
            let corner = [x0.min(x1), y0.min(y1)].map(|v| v as f32);
            let sides = [(x1 - x0).abs(), (y1 - y0).abs()].map(|v| v as f32);
            content.rect(corner[0], corner[1], sides[0], sides[1]);
            content.fill_nonzero();
        }
    }
}

/// Shows a string of glyphs from a place on, and empties it.
fn show(content: &mut Content, run: &mut Vec<u8>, turn: [f64; 4], [x, y]: [f64; 2]) {
    if run.is_empty() {
        return;
    }
    let [a, b, c, d] = turn;
    content.set_text_matrix([a, b, c, d, x, y].map(|v| v as f32));
    content.show(Str(run));
    run.clear();
}

/// Whether there is anything to draw.
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

fn packed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|e| Error::io("a PDF in memory", e))
}

/// The name of a face in the page's resources.
fn name(face: Face) -> &'static str {
    match face {
        Face::Regular => "R",
        Face::Bold => "B",
        Face::Italic => "S",
    }
}

/// The font that a face is in a PDF: what a page shows of it, the widths, and which characters its glyphs are.
fn embed(pdf: &mut Pdf, face: Face, ids: &[Ref; 5], embedded: &Embedded) -> Result<()> {
    let [font, descendant, descriptor, characters, file] = *ids;
    let wrong = |what: String| Error::Drawing(format!("the font cannot be embedded: {what}"));
    let subset =
        subsetter::subset(face.file(), 0, &embedded.glyphs).map_err(|e| wrong(format!("{e:?}")))?;
    let outlines =
        table(&subset, b"CFF ").ok_or_else(|| wrong("it has no table of outlines".into()))?;
    // Six letters tell a subset from the whole font, and subsets from each other.
    let hash = blake3::hash(&subset);
    let tag: String = hash.as_bytes()[..6]
        .iter()
        .map(|b| char::from(b'A' + b % 26))
        .collect();
    let full = format!("{tag}+{}", face.postscript());
    let base = Name(full.as_bytes());
    let system = SystemInfo {
        registry: Str(b"Adobe"),
        ordering: Str(b"Identity"),
        supplement: 0,
    };
    pdf.type0_font(font)
        .base_font(base)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(descendant)
        .to_unicode(characters);
    let em = face.units();
    let thousandths = |units: f64| (units * 1000.0 / em) as f32;
    let mut cid = pdf.cid_font(descendant);
    cid.subtype(CidFontType::Type0)
        .base_font(base)
        .system_info(system)
        .font_descriptor(descriptor)
        .default_width(0.0);
    let old: Vec<u16> = embedded.glyphs.remapped_gids().collect();
    cid.widths()
        .consecutive(0, old.iter().map(|id| thousandths(face.advance(*id))));
    cid.finish();
    let slanted = face == Face::Italic;
    let mut flags = FontFlags::NON_SYMBOLIC;
    flags.set(FontFlags::ITALIC, slanted);
    let [ascent, descent] = [0.97, -0.24].map(|v| thousandths(v * em));
    pdf.font_descriptor(descriptor)
        .name(base)
        .flags(flags)
        .bbox(Rect::new(-500.0, -300.0, 2500.0, 1100.0))
        .italic_angle(if slanted { -9.4 } else { 0.0 })
        .ascent(ascent)
        .descent(descent)
        .cap_height(thousandths(0.727 * em))
        .stem_v(if face == Face::Bold { 130.0 } else { 90.0 })
        .font_file3(file);
    let mut map = UnicodeCmap::new(Name(b"Custom"), system);
    for (glyph, character) in &embedded.characters {
        map.pair(*glyph, *character);
    }
    pdf.cmap(characters, &map.finish());
    let data = packed(outlines)?;
    pdf.stream(file, &data)
        .filter(Filter::FlateDecode)
        .pair(Name(b"Subtype"), Name(b"CIDFontType0C"));
    Ok(())
}

/// A table of an OpenType file.
fn table<'a>(file: &'a [u8], tag: &[u8; 4]) -> Option<&'a [u8]> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let part = file.get(at..at + bytes)?;
        Some(part.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    let count = number(4, 2)?;
    let entry = (0..count)
        .map(|i| 12 + 16 * i)
        .find(|at| file.get(*at..at + 4) == Some(tag))?;
    let (from, length) = (number(entry + 8, 4)?, number(entry + 12, 4)?);
    file.get(from..from + length)
}

/// The width in points of a canvas at its own size.
pub(crate) fn natural_width(canvas: &Canvas) -> f64 {
    canvas.width * POINTS
}
