//! Writes a canvas as SVG. Text becomes outlines, and each glyph is stored once: the file looks
//! the same in a browser, an editor and a paper, whatever fonts are installed.

use super::canvas::{Canvas, Shape};
use super::font::{EM, Face, Piece, Typeface};
use super::png;
use super::style::Colour;
use crate::Result;
use ab_glyph::OutlineCurve;
use base64::Engine as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Writes a canvas. `configuration` is JSON for the metadata element, `points` is the width on
/// paper, if one is set.
pub(crate) fn draw(
    canvas: &Canvas,
    points: Option<f64>,
    title: &str,
    configuration: &str,
) -> Result<String> {
    let mut glyphs: BTreeMap<(Typeface, u16), String> = BTreeMap::new();
    let mut clips: Vec<[f64; 4]> = Vec::new();
    let mut body = String::new();
    for item in &canvas.items {
        let clip = item.clip.map(|area| {
            let known = clips.iter().position(|c| *c == area);
            known.unwrap_or_else(|| {
                clips.push(area);
                clips.len() - 1
            })
        });
        if let Some(i) = clip {
            let _ = write!(body, "<g clip-path=\"url(#clip{i})\">");
        }
        shape(&mut body, &item.shape, &mut glyphs)?;
        if clip.is_some() {
            body.push_str("</g>");
        }
        body.push('\n');
    }
    let (w, h) = (number(canvas.width), number(canvas.height));
    let (across, down) = match points {
        None => (w.clone(), h.clone()),
        Some(points) => {
            let down = points * canvas.height / canvas.width;
            (
                format!("{}pt", number(points)),
                format!("{}pt", number(down)),
            )
        }
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{across}\" height=\"{down}\" viewBox=\"0 0 {w} {h}\" role=\"img\">\n\
         <title>{}</title>\n<metadata id=\"invariances\">{}</metadata>\n<defs>\n",
        escape(title),
        escape(configuration)
    );
    for ((font, id), path) in &glyphs {
        let _ = writeln!(svg, "<path id=\"{}\" d=\"{path}\"/>", name(*font, *id));
    }
    for (i, [x, y, w, h]) in clips.iter().map(|c| c.map(number)).enumerate() {
        let _ = writeln!(
            svg,
            "<clipPath id=\"clip{i}\"><rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"/></clipPath>"
        );
    }
    let _ = write!(
        svg,
        "</defs>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>\n{body}</svg>\n"
    );
    Ok(svg)
}

fn shape(
    out: &mut String,
    shape: &Shape,
    glyphs: &mut BTreeMap<(Typeface, u16), String>,
) -> Result<()> {
    match shape {
        Shape::Fill { points, colour } => {
            let _ = write!(
                out,
                "<polygon points=\"{}\"{}/>",
                list(points),
                paint("fill", Some(*colour))
            );
        }
        Shape::Stroke {
            points,
            colour,
            width,
            dash,
        } => {
            let _ = write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke-width=\"{}\"{}",
                list(points),
                number(*width),
                paint("stroke", Some(*colour))
            );
            match dash {
                Some([on, off]) => {
                    let _ = write!(
                        out,
                        " stroke-dasharray=\"{} {}\"/>",
                        number(*on),
                        number(*off)
                    );
                }
                None => out.push_str(" stroke-linejoin=\"round\"/>"),
            }
        }
        Shape::Rect {
            area,
            radius,
            fill,
            stroke,
        } => {
            let [x, y, w, h] = area.map(number);
            let _ = write!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\""
            );
            if *radius > 0.0 {
                let _ = write!(out, " rx=\"{}\"", number(*radius));
            }
            out.push_str(&paint("fill", *fill));
            if let Some((colour, width)) = stroke {
                out.push_str(&paint("stroke", Some(*colour)));
                let _ = write!(out, " stroke-width=\"{}\"", number(*width));
            }
            out.push_str("/>");
        }
        Shape::Text {
            at,
            text,
            line,
            size,
            colour,
            upwards,
        } => {
            let k = size / EM;
            let turn = if *upwards { " rotate(-90)" } else { "" };
            let _ = write!(
                out,
                "<g aria-label=\"{}\" transform=\"translate({} {}){turn} scale({:.6} {:.6})\"{}>",
                escape(text),
                number(at[0]),
                number(at[1]),
                k,
                -k,
                paint("fill", Some(*colour))
            );
            for piece in &line.pieces {
                match *piece {
                    Piece::Bar(bar) => {
                        let [x, y, w, h] = bar.map(number);
                        let _ = write!(
                            out,
                            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"/>"
                        );
                    }
                    Piece::Glyph { font, id, x, y, .. } => {
                        let path = glyphs
                            .entry((font, id))
                            .or_insert_with(|| path(&font.outline(id)));
                        if path.is_empty() {
                            glyphs.remove(&(font, id));
                            continue;
                        }
                        let _ =
                            write!(out, "<use href=\"#{}\" x=\"{}\"", name(font, id), number(x));
                        if y != 0.0 {
                            let _ = write!(out, " y=\"{}\"", number(y));
                        }
                        out.push_str("/>");
                    }
                }
            }
            out.push_str("</g>");
        }
        Shape::Image { area, pixels } => {
            let bytes = png::encode(pixels, false, None, &[])?;
            let data = base64::engine::general_purpose::STANDARD.encode(bytes);
            let [x, y, w, h] = area.map(number);
            // Browsers use different names for "show every pixel as a square".
            let _ = write!(
                out,
                "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\" \
                 style=\"image-rendering:crisp-edges;image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>"
            );
        }
    }
    Ok(())
}

/// Returns the id of a glyph. Figures in the same page may use the same id, but only for the same
/// glyph.
fn name(font: Typeface, id: u16) -> String {
    match font {
        Typeface::Shipped(Face::Regular) => format!("r{id}"),
        Typeface::Shipped(Face::Bold) => format!("b{id}"),
        Typeface::Shipped(Face::Italic) => format!("i{id}"),
        Typeface::Shipped(Face::Signs) => format!("s{id}"),
        Typeface::Other(other) => format!("f{}-{id}", other.key),
    }
}

/// Returns a glyph's outline as SVG path data, in units of [`EM`].
fn path(curves: &[OutlineCurve]) -> String {
    let mut out = String::new();
    let mut last = None;
    let pair = |p: ab_glyph::Point| format!("{} {}", number(p.x.into()), number(p.y.into()));
    for curve in curves {
        let start = match curve {
            OutlineCurve::Line(a, _)
            | OutlineCurve::Quad(a, _, _)
            | OutlineCurve::Cubic(a, _, _, _) => *a,
        };
        if last != Some(start) {
            if last.is_some() {
                out.push('Z');
            }
            let _ = write!(out, "M{}", pair(start));
        }
        last = Some(match *curve {
            OutlineCurve::Line(_, b) => {
                let _ = write!(out, "L{}", pair(b));
                b
            }
            OutlineCurve::Quad(_, b, c) => {
                let _ = write!(out, "Q{} {}", pair(b), pair(c));
                c
            }
            OutlineCurve::Cubic(_, b, c, d) => {
                let _ = write!(out, "C{} {} {}", pair(b), pair(c), pair(d));
                d
            }
        });
    }
    if last.is_some() {
        out.push('Z');
    }
    out
}

fn paint(what: &str, colour: Option<Colour>) -> String {
    let Some(c) = colour else {
        return format!(" {what}=\"none\"");
    };
    let mut text = format!(" {what}=\"#{:02x}{:02x}{:02x}\"", c.red, c.green, c.blue);
    if c.alpha < 1.0 {
        let _ = write!(text, " {what}-opacity=\"{}\"", number(c.alpha.into()));
    }
    text
}

fn list(points: &[[f64; 2]]) -> String {
    let pairs: Vec<String> = points
        .iter()
        .map(|p| format!("{},{}", number(p[0]), number(p[1])))
        .collect();
    pairs.join(" ")
}

/// Formats a number with at most two decimals.
fn number(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.into()
    }
}

/// Escapes text for XML and HTML, in an element or in a quoted attribute. Characters that XML
/// does not allow become spaces.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if (c < ' ' && !matches!(c, '\n' | '\t')) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(' ');
            }
            c => out.push(c),
        }
    }
    out
}
