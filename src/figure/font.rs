//! The embedded typeface: measures and outlines, the same on every machine.

use ab_glyph::{Font, FontRef, OutlineCurve, Point};
use std::sync::OnceLock;

/// The faces of Inter that figures use (OFL, `data/fonts`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Face {
    Regular,
    Bold,
    Italic,
}

/// The files, in the order of [`Face`].
const FILES: [&[u8]; 3] = [
    include_bytes!("../../data/fonts/Inter-Regular.otf"),
    include_bytes!("../../data/fonts/Inter-SemiBold.otf"),
    include_bytes!("../../data/fonts/Inter-Italic.otf"),
];

impl Face {
    fn font(self) -> &'static FontRef<'static> {
        static FONTS: OnceLock<[FontRef<'static>; 3]> = OnceLock::new();
        let fonts = FONTS.get_or_init(|| {
            let load = |bytes: &'static [u8]| {
                FontRef::try_from_slice(bytes).expect("the embedded font is a font")
            };
            FILES.map(load)
        });
        &fonts[self as usize]
    }

    /// The OpenType file.
    pub fn file(self) -> &'static [u8] {
        FILES[self as usize]
    }

    /// The name that the font has of itself.
    pub fn postscript(self) -> &'static str {
        match self {
            Self::Regular => "Inter-Regular",
            Self::Bold => "Inter-SemiBold",
            Self::Italic => "Inter-Italic",
        }
    }

    /// How far the next glyph is from this one, in font units.
    pub fn advance(self, id: u16) -> f64 {
        f64::from(self.font().h_advance_unscaled(ab_glyph::GlyphId(id)))
    }

    /// Font units per em. Glyph coordinates are in these units, y upwards.
    pub fn units(self) -> f64 {
        f64::from(self.font().units_per_em().unwrap_or(1000.0))
    }
}

/// A piece of a line of text: a glyph, or a bar above one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// A glyph whose origin lies at (`x`, `y`), in font units, y upwards.
    Glyph {
        id: u16,
        x: f64,
        y: f64,
        /// What it stands for.
        character: char,
    },
    /// The bar of z̄, as left, bottom, width, height in font units.
    Bar([f64; 4]),
}

/// Sets a line of text: its pieces and its width, in font units.
///
/// The font's subset has no positioning tables, so the two accents of the paper's symbols are placed
/// here: a macron (z̄) as a bar above the letter, a tilde or hat (x̃, x̂) centred above it.
pub(crate) fn shape(face: Face, text: &str) -> (Vec<Piece>, f64) {
    let font = face.font();
    let em = face.units();
    let mut pieces = Vec::new();
    let mut at = 0.0;
    let mut letter: Option<[f64; 3]> = None; // left, right and top of the last one
    for c in text.chars() {
        match c {
            '\u{304}' => {
                if let Some([left, right, top]) = letter {
                    let inset = 0.04 * (right - left);
                    pieces.push(Piece::Bar([
                        left + inset,
                        top + 0.09 * em,
                        right - left - 2.0 * inset,
                        0.075 * em,
                    ]));
                }
            }
            '\u{303}' | '\u{302}' => {
                if let Some([left, right, top]) = letter {
                    let id = font.glyph_id(if c == '\u{303}' { '\u{2dc}' } else { '\u{2c6}' });
                    if let Some([l, r, b, _]) = bounds(face, id.0) {
                        let x = (left + right) / 2.0 - (l + r) / 2.0;
                        pieces.push(Piece::Glyph {
                            id: id.0,
                            x,
                            y: top + 0.1 * em - b,
                            character: c,
                        });
                    }
                }
            }
            character => {
                // Signs that Inter lacks, by their nearest of kin.
                let c = match c {
                    '∘' => '◦',
                    '∼' => '~',
                    '\u{a0}' | '\t' | '\n' | '\r' => ' ',
                    '✔' => '✓',
                    '✘' => '✗',
                    c => c,
                };
                let mut id = font.glyph_id(c);
                if id.0 == 0 {
                    id = font.glyph_id('?');
                }
                letter = bounds(face, id.0).map(|[l, r, _, t]| [at + l, at + r, t]);
                pieces.push(Piece::Glyph {
                    id: id.0,
                    x: at,
                    y: 0.0,
                    character,
                });
                at += f64::from(font.h_advance_unscaled(id));
            }
        }
    }
    (pieces, at)
}

/// The width of a line of text at a size.
pub(crate) fn width(face: Face, size: f64, text: &str) -> f64 {
    shape(face, text).1 * size / face.units()
}

/// Breaks text into lines of at most `limit`; a single word may be longer.
pub(crate) fn wrap(face: Face, size: f64, text: &str, limit: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let longer = if line.is_empty() {
                word.to_string()
            } else {
                format!("{line} {word}")
            };
            if line.is_empty() || width(face, size, &longer) <= limit {
                line = longer;
            } else {
                lines.push(std::mem::replace(&mut line, word.to_string()));
            }
        }
        lines.push(line);
    }
    lines
}

/// A glyph's edges: curves whose ends meet, contour by contour.
pub(crate) fn outline(face: Face, id: u16) -> Vec<OutlineCurve> {
    let outline = face.font().outline(ab_glyph::GlyphId(id));
    outline.map(|o| o.curves).unwrap_or_default()
}

/// Left, right, bottom and top of a glyph's ink.
fn bounds(face: Face, id: u16) -> Option<[f64; 4]> {
    let mut b: Option<[f64; 4]> = None;
    let mut add = |p: Point| {
        let (x, y) = (f64::from(p.x), f64::from(p.y));
        let [l, r, d, u] = b.unwrap_or([x, x, y, y]);
        b = Some([l.min(x), r.max(x), d.min(y), u.max(y)]);
    };
    for curve in outline(face, id) {
        match curve {
            OutlineCurve::Line(p, q)
            | OutlineCurve::Quad(p, _, q)
            | OutlineCurve::Cubic(p, _, _, q) => {
                add(p);
                add(q);
            }
        }
    }
    b
}

/// Makes `("sans-serif", size)` work in plotters too, which has no fonts of its own here.
pub(crate) fn register_with_plotters() {
    use plotters::style::{FontStyle, register_font};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let styles = [FontStyle::Normal, FontStyle::Bold, FontStyle::Italic];
        for family in ["sans-serif", "Inter"] {
            for (style, bytes) in styles.into_iter().zip(FILES) {
                // It refuses only bytes that are not a font; these are.
                let _ = register_font(family, style, bytes);
            }
        }
    });
}
