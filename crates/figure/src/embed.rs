//! Embeds fonts in a PDF: the glyphs that a page uses, their widths, and the characters that they
//! represent.

use super::font::{EM, Face, Typeface};
use crate::{Error, Result};
use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::types::{CidFontType, FontFlags, SystemInfo, UnicodeCmap};
use pdf_writer::{Filter, Finish, Name, Pdf, Rect, Ref, Str};
use std::collections::BTreeMap;
use std::io::Write as _;
use subsetter::GlyphRemapper;

/// The glyphs of a font that a page uses, with their new numbers, and the characters that they
/// represent.
pub(super) struct Embedded {
    pub glyphs: GlyphRemapper,
    pub characters: BTreeMap<u16, char>,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            glyphs: GlyphRemapper::new(),
            characters: BTreeMap::new(),
        }
    }
}

/// Returns the name of a font in the page's resources.
pub(super) fn name(font: Typeface) -> String {
    match font {
        Typeface::Shipped(Face::Regular) => "R".into(),
        Typeface::Shipped(Face::Bold) => "B".into(),
        Typeface::Shipped(Face::Italic) => "S".into(),
        Typeface::Shipped(Face::Signs) => "M".into(),
        Typeface::Other(other) => format!("F{}", other.key),
    }
}

/// The part of a font that a page uses.
pub(super) enum Subset {
    /// Only the table of compact outlines (CFF).
    Compact(Vec<u8>),
    /// A complete font file with TrueType outlines.
    TrueType(Vec<u8>),
}

/// Reduces a font to the glyphs that a page uses. The error is the font and the reason.
pub(super) fn subset(
    font: Typeface,
    embedded: &Embedded,
) -> std::result::Result<Subset, (Typeface, String)> {
    let (file, index) = match font {
        Typeface::Shipped(face) => (face.file(), 0),
        Typeface::Other(other) if other.as_in_file => (other.file(), other.index),
        Typeface::Other(_) => {
            return Err((
                font,
                "only the default weight of a variable font can be embedded".into(),
            ));
        }
    };
    let subset = subsetter::subset(file, index, &embedded.glyphs);
    let subset = subset.map_err(|e| (font, format!("{e:?}")))?;
    match table(&subset, b"CFF ").map(<[u8]>::to_vec) {
        Some(outlines) => Ok(Subset::Compact(outlines)),
        None if table(&subset, b"glyf").is_some() => Ok(Subset::TrueType(subset)),
        None => Err((font, "the font has no outlines".into())),
    }
}

/// Style of a font, for PDF readers that substitute it. Lengths are in thousandths of an em, the
/// angle is in degrees.
struct Look {
    name: String,
    bold: bool,
    italic: bool,
    angle: f64,
    ascent: f64,
    descent: f64,
}

fn look(font: Typeface) -> Look {
    match font {
        Typeface::Shipped(face) => Look {
            name: face.postscript().into(),
            bold: face == Face::Bold,
            italic: face == Face::Italic,
            angle: if face == Face::Italic { -9.4 } else { 0.0 },
            ascent: 970.0,
            descent: -240.0,
        },
        Typeface::Other(other) => {
            let [ascent, descent, angle] = other.metrics();
            let letters = other.family.chars().filter(char::is_ascii_alphanumeric);
            Look {
                name: letters.take(60).chain("-Subset".chars()).collect(),
                bold: other.bold,
                italic: other.italic,
                angle,
                ascent: ascent * 1000.0 / EM,
                descent: descent * 1000.0 / EM,
            }
        }
    }
}

/// Embeds the part of a font that a page uses, with the widths of its glyphs and the characters
/// that they represent.
pub(super) fn embed(
    pdf: &mut Pdf,
    typeface: Typeface,
    ids: &[Ref; 5],
    embedded: &Embedded,
    subset: &Subset,
) -> Result<()> {
    let [font, descendant, descriptor, characters, file] = *ids;
    let (Subset::Compact(data) | Subset::TrueType(data)) = subset;
    // Six letters mark the font as a subset and distinguish subsets of the same font.
    let hash = blake3::hash(data);
    let tag: String = hash.as_bytes()[..6]
        .iter()
        .map(|b| char::from(b'A' + b % 26))
        .collect();
    let look = look(typeface);
    let full = format!("{tag}+{}", look.name);
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
    let mut cid = pdf.cid_font(descendant);
    match subset {
        Subset::Compact(_) => cid.subtype(CidFontType::Type0),
        Subset::TrueType(_) => cid
            .subtype(CidFontType::Type2)
            .cid_to_gid_map_predefined(Name(b"Identity")),
    };
    cid.base_font(base)
        .system_info(system)
        .font_descriptor(descriptor)
        .default_width(0.0);
    let old: Vec<u16> = embedded.glyphs.remapped_gids().collect();
    let widths = old
        .iter()
        .map(|id| (typeface.advance(*id) * 1000.0 / EM) as f32);
    cid.widths().consecutive(0, widths);
    cid.finish();
    let mut flags = FontFlags::NON_SYMBOLIC;
    flags.set(FontFlags::ITALIC, look.italic);
    let mut about = pdf.font_descriptor(descriptor);
    about
        .name(base)
        .flags(flags)
        .bbox(Rect::new(-500.0, -300.0, 2500.0, 1100.0))
        .italic_angle(look.angle as f32)
        .ascent(look.ascent as f32)
        .descent(look.descent as f32)
        .cap_height(727.0)
        .stem_v(if look.bold { 130.0 } else { 90.0 });
    match subset {
        Subset::Compact(_) => about.font_file3(file),
        Subset::TrueType(_) => about.font_file2(file),
    };
    about.finish();
    let mut map = UnicodeCmap::new(Name(b"Custom"), system);
    for (glyph, character) in &embedded.characters {
        map.pair(*glyph, *character);
    }
    pdf.cmap(characters, &map.finish());
    let packed = packed(data)?;
    let mut stream = pdf.stream(file, &packed);
    stream.filter(Filter::FlateDecode);
    match subset {
        Subset::Compact(_) => stream.pair(Name(b"Subtype"), Name(b"CIDFontType0C")),
        Subset::TrueType(_) => stream.pair(Name(b"Length1"), data.len() as i32),
    };
    Ok(())
}

/// Compresses a stream of the PDF (deflate).
pub(super) fn packed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|e| Error::io("a PDF in memory", e))
}

/// Returns a table of an OpenType file.
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
