//! Converts text to glyphs: widths and outlines. The shipped fonts give the same result on every
//! machine; characters that they lack come from [`fallback`].

use super::fallback::{self, Other};
use ab_glyph::{Font, FontRef, GlyphId, OutlineCurve, Point};
use std::sync::OnceLock;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

/// Units per em in which lines of text are measured: those of the shipped fonts.
pub(crate) const EM: f64 = 2816.0;

/// The shipped fonts (OFL, `fonts/`): faces of Inter, and mathematical signs that Inter lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Face {
    Regular,
    Bold,
    Italic,
    Signs,
}

/// The font files, in the order of [`Face`].
const FILES: [&[u8]; 4] = [
    include_bytes!("../fonts/Inter-Regular.otf"),
    include_bytes!("../fonts/Inter-SemiBold.otf"),
    include_bytes!("../fonts/Inter-Italic.otf"),
    include_bytes!("../fonts/NotoSansMath-Regular.ttf"),
];

impl Face {
    fn font(self) -> &'static FontRef<'static> {
        static FONTS: OnceLock<[FontRef<'static>; 4]> = OnceLock::new();
        let fonts = FONTS.get_or_init(|| {
            let load = |bytes: &'static [u8]| {
                FontRef::try_from_slice(bytes).expect("the embedded font is a font")
            };
            FILES.map(load)
        });
        &fonts[self as usize]
    }

    /// Returns the bytes of the OpenType file.
    pub fn file(self) -> &'static [u8] {
        FILES[self as usize]
    }

    /// Returns the font's PostScript name.
    pub fn postscript(self) -> &'static str {
        match self {
            Self::Regular => "Inter-Regular",
            Self::Bold => "Inter-SemiBold",
            Self::Italic => "Inter-Italic",
            Self::Signs => "NotoSansMath-Regular",
        }
    }
}

/// The font of a glyph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Typeface {
    Shipped(Face),
    Other(&'static Other),
}

impl Typeface {
    /// Returns the distance from a glyph to the next one.
    pub fn advance(self, id: u16) -> f64 {
        match self {
            Self::Shipped(face) => f64::from(face.font().h_advance_unscaled(GlyphId(id))),
            Self::Other(other) => other.advance(id),
        }
    }

    /// Returns the outline of a glyph: curves whose ends meet, contour by contour.
    pub fn outline(self, id: u16) -> Vec<OutlineCurve> {
        match self {
            Self::Shipped(face) => {
                let outline = face.font().outline(GlyphId(id));
                outline.map(|o| o.curves).unwrap_or_default()
            }
            Self::Other(other) => other.outline(id),
        }
    }

    /// Returns the extent of a glyph, from the end points of its curves: left, right, bottom and
    /// top.
    fn bounds(self, id: u16) -> Option<[f64; 4]> {
        let mut b: Option<[f64; 4]> = None;
        let mut add = |p: Point| {
            let (x, y) = (f64::from(p.x), f64::from(p.y));
            let [l, r, d, u] = b.unwrap_or([x, x, y, y]);
            b = Some([l.min(x), r.max(x), d.min(y), u.max(y)]);
        };
        for curve in self.outline(id) {
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
}

/// A part of a line of text: a glyph, or a bar. Macrons and the boxes of missing characters are
/// made of bars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Piece {
    /// A glyph whose origin is at (`x`, `y`).
    Glyph {
        font: Typeface,
        id: u16,
        x: f64,
        y: f64,
        /// The character that the glyph represents.
        character: char,
    },
    /// Left, bottom, width, height.
    Bar([f64; 4]),
}

/// A line of text, ready to be drawn. Lengths are in units of [`EM`], y upwards.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    pub pieces: Vec<Piece>,
    pub width: f64,
    /// Characters that no font has. Boxes are drawn instead of them.
    pub missing: Vec<char>,
}

/// Sets a line of text.
///
/// The text is normalised first (NFC), so that it does not matter how an accented letter was
/// typed. The shipped fonts have no positioning tables. Accents that are not part of a glyph are
/// therefore placed here: a macron (z̄) as a bar above the letter, others centred above, below or
/// on the letter.
pub(crate) fn shape(face: Face, text: &str) -> Line {
    let mut setter = Setter {
        face,
        line: Line::default(),
        letter: None,
    };
    for c in text.nfc() {
        setter.character(c);
    }
    setter.line
}

struct Setter {
    face: Face,
    line: Line,
    /// Extent of the last letter, including the accents that it has so far: left, right, bottom
    /// and top.
    letter: Option<[f64; 4]>,
}

impl Setter {
    fn character(&mut self, c: char) {
        match c {
            '\u{304}' => {
                let [left, right, bottom, top] = self.accented();
                let inset = 0.04 * (right - left);
                let bar = [
                    left + inset,
                    top + 0.09 * EM,
                    right - left - 2.0 * inset,
                    0.075 * EM,
                ];
                self.line.pieces.push(Piece::Bar(bar));
                self.letter = Some([left, right, bottom, bar[1] + bar[3]]);
            }
            '\u{303}' => self.accent(c, shipped(self.face, '\u{2dc}')),
            '\u{302}' => self.accent(c, shipped(self.face, '\u{2c6}')),
            // Marks above, below and through a letter are placed here; other marks stay where
            // their font puts them.
            _ if matches!(canonical_combining_class(c), 1 | 202 | 214..=240) => {
                self.accent(c, glyph(self.face, c));
            }
            _ if is_invisible(c) => {}
            _ => self.letter(c),
        }
    }

    /// Returns the extent of the letter for the next accent: the last letter, or an empty space
    /// if there is no letter.
    fn accented(&self) -> [f64; 4] {
        let at = self.line.width;
        self.letter.unwrap_or([at, at + 0.5 * EM, 0.0, 0.546 * EM])
    }

    fn accent(&mut self, c: char, glyph: Option<(Typeface, u16)>) {
        let ink = glyph.and_then(|(font, id)| Some((font, id, font.bounds(id)?)));
        let Some((font, id, [l, r, b, t])) = ink else {
            return self.missing(c);
        };
        let [left, right, bottom, top] = self.accented();
        let y = match canonical_combining_class(c) {
            1 => (bottom + top) / 2.0 - (b + t) / 2.0,
            202 | 240 => bottom - t,
            214 | 218..=222 | 233 => bottom - 0.1 * EM - t,
            _ => top + 0.1 * EM - b,
        };
        self.line.pieces.push(Piece::Glyph {
            font,
            id,
            x: (left + right) / 2.0 - (l + r) / 2.0,
            y,
            character: c,
        });
        self.letter = Some([left, right, bottom.min(y + b), top.max(y + t)]);
    }

    fn letter(&mut self, c: char) {
        if let Some((font, id)) = shipped(self.face, c) {
            return self.put(font, id, c, font.advance(id));
        }
        if let (Some(width), Some((font, id))) = (blank(c), shipped(self.face, ' ')) {
            return self.put(font, id, c, width * EM);
        }
        // A letter and accents of the shipped fonts are preferred to a complete glyph of another
        // font.
        let mut parts = Vec::new();
        unicode_normalization::char::decompose_canonical(c, |part| parts.push(part));
        if let Some(letters) = ligature(c) {
            parts = letters.chars().collect();
        }
        if parts.len() > 1 && parts.iter().all(|part| shipped(self.face, *part).is_some()) {
            return parts.into_iter().for_each(|part| self.character(part));
        }
        match glyph(self.face, c) {
            Some((font, id)) => self.put(font, id, c, font.advance(id)),
            None if parts.len() > 1 && glyph(self.face, parts[0]).is_some() => {
                parts.into_iter().for_each(|part| self.character(part));
            }
            None => self.missing(c),
        }
    }

    fn put(&mut self, font: Typeface, id: u16, character: char, advance: f64) {
        let x = self.line.width;
        let ink = font.bounds(id);
        self.letter = ink.map(|[l, r, b, t]| [x + l, x + r, b, t]);
        self.line.pieces.push(Piece::Glyph {
            font,
            id,
            x,
            y: 0.0,
            character,
        });
        self.line.width += advance;
    }

    /// Draws a box for a character that no font has.
    fn missing(&mut self, c: char) {
        let [advance, side, height, stroke] = [0.62, 0.06, 0.727, 0.06].map(|v| v * EM);
        let (left, wide) = (self.line.width + side, advance - 2.0 * side);
        let bars = [
            [left, 0.0, wide, stroke],
            [left, height - stroke, wide, stroke],
            [left, stroke, stroke, height - 2.0 * stroke],
            [left + wide - stroke, stroke, stroke, height - 2.0 * stroke],
        ];
        self.line.pieces.extend(bars.map(Piece::Bar));
        self.letter = Some([left, left + wide, 0.0, height]);
        self.line.width += advance;
        self.line.missing.push(c);
    }
}

/// Returns the glyph of a character in the shipped fonts, from the face itself if it has the
/// character.
fn shipped(face: Face, c: char) -> Option<(Typeface, u16)> {
    let of = |face: Face, c: char| match face.font().glyph_id(c).0 {
        0 => None,
        id => Some((Typeface::Shipped(face), id)),
    };
    // Signs that Inter lacks, and signs of Inter that look the same.
    let same = match c {
        '\u{a0}' | '\t' | '\n' | '\r' => ' ',
        '∘' => '◦',
        '∼' => '~',
        '✔' => '✓',
        '✘' => '✗',
        c => c,
    };
    let inter = of(face, same).or_else(|| of(Face::Regular, same));
    inter.or_else(|| of(Face::Signs, c))
}

/// Returns the glyph of a character in the shipped fonts, otherwise in the first other font that
/// has it.
fn glyph(face: Face, c: char) -> Option<(Typeface, u16)> {
    let other = || fallback::find(face, c).map(|(font, id)| (Typeface::Other(font), id));
    shipped(face, c).or_else(other)
}

/// Returns whether a character only controls how others are set: joiners, directions, variants of
/// emoji.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Returns the width in ems of a character that is empty space.
fn blank(c: char) -> Option<f64> {
    Some(match c {
        '\u{2001}' | '\u{2003}' | '\u{3000}' | '\u{3164}' => 1.0,
        '\u{2000}' | '\u{2002}' | '\u{ffa0}' => 0.5,
        '\u{2004}' => 1.0 / 3.0,
        '\u{2006}' => 1.0 / 6.0,
        '\u{2007}' | '\u{2800}' => 0.62,
        '\u{2009}' | '\u{202f}' => 0.2,
        '\u{200a}' => 0.1,
        _ if c.is_whitespace() => 0.25,
        _ => return None,
    })
}

/// Returns the letters of a typographic ligature, which text copied from a PDF may contain.
fn ligature(c: char) -> Option<&'static str> {
    const LETTERS: [&str; 7] = ["ff", "fi", "fl", "ffi", "ffl", "st", "st"];
    let place = u32::from(c).checked_sub(0xfb00)?;
    LETTERS.get(place as usize).copied()
}

/// Returns the width of a line of text at a size.
pub(crate) fn width(face: Face, size: f64, text: &str) -> f64 {
    shape(face, text).width * size / EM
}

/// Breaks text into lines of at most `limit`. A line with a single word may be longer. Chinese,
/// Japanese and Korean text is also broken between characters.
pub(crate) fn wrap(face: Face, size: f64, text: &str, limit: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            for (i, part) in unbreakable(word).into_iter().enumerate() {
                let space = if i > 0 || line.is_empty() { "" } else { " " };
                let longer = format!("{line}{space}{part}");
                if line.is_empty() || width(face, size, &longer) <= limit {
                    line = longer;
                } else {
                    lines.push(std::mem::replace(&mut line, part.to_string()));
                }
            }
        }
        lines.push(line);
    }
    lines
}

/// Splits a word into the parts between which a line may end.
fn unbreakable(word: &str) -> Vec<&str> {
    let wide = |c: char| {
        matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
            | '\u{ff00}'..='\u{ffef}' | '\u{20000}'..='\u{3ffff}')
    };
    // A line never begins with a character of `stays` (except opening brackets) and never ends
    // with one of `opens`.
    let stays =
        |c: char| !c.is_alphanumeric() || "ぁぃぅぇぉっゃゅょァィゥェォッャュョー々".contains(c);
    let opens = |c: char| "([{（「『【〈《［｛“‘".contains(c);
    let (mut parts, mut from, mut before) = (Vec::new(), 0, None);
    for (at, c) in word.char_indices() {
        if let Some(b) = before
            && (wide(b) || wide(c))
            && (!stays(c) || opens(c))
            && !opens(b)
        {
            parts.push(&word[from..at]);
            from = at;
        }
        before = Some(c);
    }
    parts.push(&word[from..]);
    parts
}

/// Makes `("sans-serif", size)` also work in plotters, which has no fonts of its own here.
pub(crate) fn register_with_plotters() {
    use plotters::style::{FontStyle, register_font};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let styles = [FontStyle::Normal, FontStyle::Bold, FontStyle::Italic];
        for family in ["sans-serif", "Inter"] {
            for (style, bytes) in styles.into_iter().zip(FILES) {
                // The function refuses only bytes that are not a font; these are fonts.
                let _ = register_font(family, style, bytes);
            }
        }
    });
}
