//! Font files on disk: finds them in folders and reads only what is needed to choose a font,
//! without loading it.
//!
//! The files are not trusted: sizes are checked before memory is allocated, and a file that
//! cannot be parsed gives an error with a reason.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ttf_parser::{cmap, name_id, os2};

/// Largest font file that is read, in bytes. The largest in common use (all of Noto Sans CJK) has
/// 110 MB.
const LARGEST_FILE: u64 = 256 << 20;
/// Largest character map or table of names that is read, in bytes. The map of Noto Sans CJK has
/// 0.3 MB.
const LARGEST_TABLE: u32 = 2 << 20;
/// Largest number of fonts in one collection.
const MAX_FACES: u32 = 64;
/// Largest number of files read under one folder.
const MAX_FILES: usize = 20_000;
/// Largest depth of folders that are searched.
const MAX_DEPTH: usize = 8;

/// Offset of a table in its file, and its length.
type Place = (u32, u32);

/// A font in a file: its characters and its style.
#[derive(Debug)]
pub(super) struct Known {
    pub path: Arc<Path>,
    /// The index of the font in a collection (.ttc, .otc); 0 in other files.
    pub index: u32,
    pub family: String,
    pub weight: u16,
    pub italic: bool,
    /// The width class of CSS: 5 is normal, smaller values are condensed.
    pub width: u16,
    /// Whether the glyphs have outlines, and not only pictures.
    pub outlines: bool,
    /// The table `cmap`. The fonts of a collection often share one table.
    characters: Arc<[u8]>,
}

impl Known {
    /// Returns the memory that the character map takes up, in bytes.
    pub fn size(&self) -> usize {
        self.characters.len()
    }

    /// Returns whether the font maps a character to a glyph.
    pub fn has(&self, c: char) -> bool {
        let table = cmap::Table::parse(&self.characters);
        table.is_some_and(|t| {
            t.subtables.into_iter().any(|s| {
                // Placeholder fonts map many characters to one glyph.
                let placeholder = matches!(s.format, cmap::Format::ManyToOneRangeMappings(_));
                s.is_unicode() && !placeholder && s.glyph_index(u32::from(c)).is_some()
            })
        })
    }
}

/// Returns the font files in a folder and its subfolders, sorted. Empty if the folder does not
/// exist.
pub(super) fn in_folder(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(folder, 0, &mut BTreeSet::new(), &mut found);
    found
}

fn walk(folder: &Path, depth: usize, seen: &mut BTreeSet<PathBuf>, found: &mut BTreeSet<PathBuf>) {
    // Links between folders are followed, but each folder is searched only once.
    let new = folder.canonicalize().is_ok_and(|real| seen.insert(real));
    let (true, Ok(entries)) = (new && depth <= MAX_DEPTH, std::fs::read_dir(folder)) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if found.len() >= MAX_FILES {
            return;
        }
        let ending = path.extension().and_then(|e| e.to_str());
        let ending = ending.unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            walk(&path, depth + 1, seen, found);
        } else if matches!(ending.as_str(), "ttf" | "otf" | "ttc" | "otc") && path.is_file() {
            found.insert(path);
        }
    }
}

/// Returns the fonts of a file.
///
/// # Errors
/// The reason why the file cannot be used.
pub(super) fn fonts(path: &Path) -> Result<Vec<Known>, String> {
    let mut file = open(path)?;
    let shared: Arc<Path> = path.into();
    let start = bytes(&mut file, 0, 12)?;
    let mut starts = vec![0];
    if start.starts_with(b"ttcf") {
        let count = number(&start, 8).unwrap_or(0);
        if count == 0 || count > MAX_FACES {
            return Err(format!(
                "expected a font collection of 1 to {MAX_FACES} fonts, found {count}"
            ));
        }
        let list = bytes(&mut file, 12, 4 * count)?;
        starts = (0..count as usize)
            .filter_map(|i| number(&list, 4 * i))
            .collect();
    }
    let mut found: Vec<Known> = Vec::new();
    let mut map_at = None;
    let mut wrong = String::new();
    for (index, start) in starts.into_iter().enumerate() {
        let shared_map = found.last().map(|k| k.characters.clone()).zip(map_at);
        match font(&mut file, start, shared_map) {
            Ok((mut known, at)) => {
                (known.path, known.index) = (shared.clone(), index as u32);
                if known.family.is_empty() {
                    let stem = path.file_stem().unwrap_or_default();
                    known.family = stem.to_string_lossy().into_owned();
                }
                map_at = Some(at);
                found.push(known);
            }
            Err(e) => wrong = e,
        }
    }
    if found.is_empty() {
        return Err(wrong);
    }
    Ok(found)
}

/// Reads all bytes of a font file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut file = open(path)?;
    let mut all = Vec::new();
    let read = file.by_ref().take(LARGEST_FILE).read_to_end(&mut all);
    read.map_err(|e| e.to_string())?;
    Ok(all)
}

fn open(path: &Path) -> Result<File, String> {
    // Checked before the file is opened: opening a pipe would wait for a writer.
    let about = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !about.is_file() {
        return Err("expected a file, found a folder or a special file".into());
    }
    if about.len() > LARGEST_FILE {
        return Err(format!(
            "expected a font file of at most {} MB, found {} MB",
            LARGEST_FILE >> 20,
            about.len() >> 20
        ));
    }
    File::open(path).map_err(|e| e.to_string())
}

/// Reads the font whose table directory is at `start`. Also returns the place of its character
/// map. `shared` is the character map of the previous font, with its place.
fn font(
    file: &mut File,
    start: u32,
    shared: Option<(Arc<[u8]>, Place)>,
) -> Result<(Known, Place), String> {
    let head = bytes(file, start, 12)?;
    if !matches!(&head[..4], [0, 1, 0, 0] | b"OTTO" | b"true") {
        return Err("not a TrueType or OpenType font".into());
    }
    let count = u32::from(head[4]) << 8 | u32::from(head[5]);
    let directory = bytes(file, start.saturating_add(12), 16 * count)?;
    let place = |tag: &[u8; 4]| {
        let entry = directory.chunks_exact(16).find(|e| e.starts_with(tag))?;
        let (at, length) = (number(entry, 8)?, number(entry, 12)?);
        (length <= LARGEST_TABLE).then_some((at, length))
    };
    let map = place(b"cmap").ok_or("the font has no character map")?;
    let characters = match shared {
        Some((characters, at)) if at == map => characters,
        _ => bytes(file, map.0, map.1)?.into(),
    };
    if cmap::Table::parse(&characters).is_none() {
        return Err("the character map of the font cannot be read".into());
    }
    let has = |tag: &[u8; 4]| directory.chunks_exact(16).any(|e| e.starts_with(tag));
    let outlines = has(b"glyf") || has(b"CFF ") || has(b"CFF2");
    let mut table = |tag| {
        let (at, length) = place(tag)?;
        bytes(file, at, length).ok()
    };
    let style = table(b"OS/2");
    let style = style.as_deref().and_then(os2::Table::parse);
    let names = table(b"name").unwrap_or_default();
    let known = Known {
        path: Path::new("").into(),
        index: 0,
        family: family(&names),
        weight: style.map_or(400, |s| s.weight().to_number()),
        italic: style.is_some_and(|s| s.style() != os2::Style::Normal),
        width: style.map_or(5, |s| s.width().to_number()),
        outlines,
        characters,
    };
    Ok((known, map))
}

/// Returns the family's name, in English if possible.
fn family(names: &[u8]) -> String {
    let mut best: Option<(bool, bool, String)> = None;
    for name in ttf_parser::name::Table::parse(names)
        .map(|t| t.names)
        .into_iter()
        .flatten()
    {
        let typographic = name.name_id == name_id::TYPOGRAPHIC_FAMILY;
        if !typographic && name.name_id != name_id::FAMILY {
            continue;
        }
        let english = name.language().primary_language() == "English";
        let better = best
            .as_ref()
            .is_none_or(|b| (english, typographic) > (b.0, b.1));
        if let (true, Some(text)) = (better, name.to_string()) {
            best = Some((english, typographic, text));
        }
    }
    best.map(|b| b.2).unwrap_or_default()
}

fn bytes(file: &mut File, at: u32, length: u32) -> Result<Vec<u8>, String> {
    let mut found = vec![0; length as usize];
    let read = file
        .seek(SeekFrom::Start(at.into()))
        .and_then(|_| file.read_exact(&mut found));
    read.map(|()| found).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => "the file ends too early".into(),
        _ => e.to_string(),
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}
