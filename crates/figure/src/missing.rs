//! Warns about characters that a figure cannot draw correctly.

use super::canvas::Canvas;
use super::fallback;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Warns about characters of a canvas that no font has, once per character, and about scripts
/// that are not set as they are read, once per script.
pub(crate) fn report(canvas: &Canvas) {
    static SCRIPTS: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let missing = fallback::unreported(&canvas.missing_characters());
    if !missing.is_empty() {
        eprintln!("{}", warning(&missing));
    }
    let characters = canvas.texts().flat_map(|(_, text)| text.chars());
    let scripts: BTreeSet<&str> = characters.filter_map(unshaped).collect();
    for script in scripts {
        let mut reported = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(script) {
            eprintln!(
                "warning: figures draw {script} text letter by letter, from left to right, which \
                 is wrong for this script. Write this label in another script."
            );
        }
    }
}

/// Returns the script of a character if letters of that script join, move, or run from right to
/// left.
fn unshaped(c: char) -> Option<&'static str> {
    Some(match u32::from(c) {
        0x590..=0x5ff | 0xfb1d..=0xfb4f => "Hebrew",
        0x600..=0x6ff | 0x750..=0x77f | 0x8a0..=0x8ff | 0xfb50..=0xfdff | 0xfe70..=0xfefc => {
            "Arabic"
        }
        0x700..=0x74f => "Syriac",
        0x780..=0x7bf => "Thaana",
        0x900..=0x97f => "Devanagari",
        0x980..=0x9ff => "Bengali",
        0xa00..=0xdff => "Indic",
        0xf00..=0xfff => "Tibetan",
        0x1000..=0x109f => "Burmese",
        0x1780..=0x17ff => "Khmer",
        0x1800..=0x18af => "Mongolian",
        _ => return None,
    })
}

/// Formats the warning about characters that no font has. It also names a family that has the
/// character only as a picture, if there is one.
fn warning(missing: &[(char, Option<String>)]) -> String {
    const MAX_LISTED: usize = 20;
    let mut list: Vec<String> = missing
        .iter()
        .take(MAX_LISTED)
        .map(|(c, _)| describe(*c))
        .collect();
    if missing.len() > MAX_LISTED {
        list.push(format!("{} more", missing.len() - MAX_LISTED));
    }
    let mut suggested: Vec<&str> = missing.iter().map(|(c, _)| suggestion(*c)).collect();
    suggested.sort_unstable();
    suggested.dedup();
    let (boxes, them) = match missing.len() {
        1 => ("a box", "it"),
        _ => ("boxes", "them"),
    };
    let mut text = format!(
        "warning: no font has {}: the figure shows {boxes} instead. Install a font that has {them} \
         (for example {}), or add its file with `add_font(\"FILE\")` or INVARIANCES_FONTS=FILE, \
         and draw the figure again.",
        list.join(", "),
        suggested.join(", "),
    );
    for (c, family) in missing.iter().take(MAX_LISTED) {
        if let Some(family) = family {
            text += &format!(
                " {family} has {}, but only as a picture; figures need outlines.",
                describe(*c)
            );
        }
    }
    text
}

/// Formats a character and its code point.
fn describe(c: char) -> String {
    let number = format!("U+{:04X}", u32::from(c));
    match c {
        _ if c.is_control() => number,
        _ if unicode_normalization::char::is_combining_mark(c) => format!("\u{25cc}{c} ({number})"),
        _ => format!("{c} ({number})"),
    }
}

/// Returns a free font that probably has the character.
fn suggestion(c: char) -> &'static str {
    match u32::from(c) {
        0x1100..=0x11ff | 0x2e80..=0xa4cf | 0xac00..=0xd7ff | 0xf900..=0xfaff => "Noto Sans CJK",
        0xff00..=0xffef | 0x20000..=0x3ffff => "Noto Sans CJK",
        0x1f000..=0x1faff => "Noto Emoji",
        0x2000..=0x2bff | 0x1d400..=0x1d7ff => "DejaVu Sans",
        _ => "Noto Sans",
    }
}
