//! Fonts for characters that the shipped fonts lack: first those that the user named, then those
//! of the system. Fonts are searched and loaded only when a figure contains such a character.

use super::font::{EM, Face};
use super::fontfile::{self, Known};
use crate::{Error, Result};
use ab_glyph::{Font, FontVec, GlyphId, OutlineCurve, Point, VariableFont};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Adds a font file, or all fonts of a folder, for characters that the shipped fonts lack.
///
/// The shipped fonts are Inter and Noto Sans Math: Latin, Greek, Cyrillic, mathematical signs.
/// Any other character comes from the first font that has it as an outline, in this order: fonts
/// added by this function, in the order of the calls; fonts named by the environment variable
/// `INVARIANCES_FONTS` (files or folders, separated as in `PATH`); fonts installed on the system
/// or in the active conda environment. Add a font to get the same figure on every machine.
///
/// Files are TrueType or OpenType (.ttf, .otf, .ttc, .otc). Figures drawn before the call do not
/// change. Bitmap and colour glyphs cannot be drawn. Arabic, Hebrew and Indic text is set letter
/// by letter, from left to right.
///
/// ```
/// use invariances_figure::{Chart, add_font};
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/fonts/cjk.ttc");
/// add_font(file)?;
/// let chart = Chart::new("猫").line("loss", &[1.0, 2.0], &[3.0, 2.0]).figure()?;
/// assert!(chart.missing_characters().is_empty());
/// # Ok::<(), invariances_figure::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] for a path that does not exist; [`Error::Content`] for a file that is not a font
/// with outlines, or a folder without such a font.
pub fn add_font(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let known = named(path).map_err(|what| Error::content(path, what))?;
    let mut fonts = lock();
    // Fonts named by the environment variable come after those added by the program.
    let place = fonts.added;
    fonts.named.insert(place, known);
    fonts.added += 1;
    fonts.found.clear();
    Ok(())
}

/// A font that is not shipped. It stays in memory until the process ends.
pub(crate) struct Other {
    font: FontVec,
    /// Index of the font in a collection.
    pub index: u32,
    /// The family's name.
    pub family: String,
    /// Identifies the font and is the same in every process. Names in PDF and SVG files contain
    /// it.
    pub key: String,
    pub bold: bool,
    pub italic: bool,
    /// Whether the outlines are those of the file. False for another weight of a variable font.
    pub as_in_file: bool,
}

impl Other {
    /// The OpenType file.
    pub fn file(&self) -> &[u8] {
        self.font.as_slice()
    }

    fn scale(&self) -> f64 {
        EM / f64::from(self.font.units_per_em().unwrap_or(1000.0).max(1.0))
    }

    /// Returns the distance from a glyph to the next one, in units of [`EM`].
    pub fn advance(&self, id: u16) -> f64 {
        f64::from(self.font.h_advance_unscaled(GlyphId(id))) * self.scale()
    }

    /// Returns ascent and descent in units of [`EM`], and the angle of upright strokes in
    /// degrees.
    pub fn metrics(&self) -> [f64; 3] {
        let scaled = |v: f32| f64::from(v) * self.scale();
        [
            scaled(self.font.ascent_unscaled()),
            scaled(self.font.descent_unscaled()),
            self.font.italic_angle().into(),
        ]
    }

    /// Returns the outline of a glyph as curves, in units of [`EM`].
    pub fn outline(&self, id: u16) -> Vec<OutlineCurve> {
        let k = self.scale() as f32;
        let put = |p: Point| ab_glyph::point(p.x * k, p.y * k);
        let outline = self.font.outline(GlyphId(id));
        let curves = outline.map(|o| o.curves).unwrap_or_default();
        let scaled = curves.into_iter().map(|curve| match curve {
            OutlineCurve::Line(a, b) => OutlineCurve::Line(put(a), put(b)),
            OutlineCurve::Quad(a, b, c) => OutlineCurve::Quad(put(a), put(b), put(c)),
            OutlineCurve::Cubic(a, b, c, d) => OutlineCurve::Cubic(put(a), put(b), put(c), put(d)),
        });
        scaled.collect()
    }

    /// Returns the glyph of a character if it can be drawn: it has an outline and is not in
    /// colour.
    fn glyph(&self, c: char) -> Option<u16> {
        let id = self.font.glyph_id(c);
        let face = ttf_parser::Face::parse(self.file(), self.index).ok()?;
        let colour = face.is_color_glyph(ttf_parser::GlyphId(id.0))
            || self.font.glyph_raster_image2(id, u16::MAX).is_some()
            || self.font.glyph_svg_image(id).is_some();
        (id.0 != 0 && !colour && self.font.outline(id).is_some()).then_some(id.0)
    }
}

impl std::fmt::Debug for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Other({} {})", self.family, self.key)
    }
}

impl PartialEq for Other {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Other {}

impl PartialOrd for Other {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Other {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// A glyph and its font.
pub(crate) type Glyph = (&'static Other, u16);
/// A font in a file: its path, its index in a collection, and the requested weight.
type Place = (Arc<Path>, u32, u16);

/// All fonts that are known so far, and the glyphs found in them.
struct Fonts {
    /// One list per file or folder that the user named: first those of the program, then those of
    /// the environment variable.
    named: Vec<Vec<Known>>,
    /// Number of lists that the program added.
    added: usize,
    environment_read: bool,
    system: Option<Vec<Known>>,
    /// `None` for a font that cannot be used.
    loaded: BTreeMap<Place, Option<&'static Other>>,
    found: BTreeMap<(Face, char), Option<Glyph>>,
    /// For a character, a family that has it, but not as an outline.
    pictures: BTreeMap<char, String>,
    /// Characters that were already reported to the user as missing.
    reported: BTreeSet<char>,
}

static FONTS: Mutex<Fonts> = Mutex::new(Fonts {
    named: Vec::new(),
    added: 0,
    environment_read: false,
    system: None,
    loaded: BTreeMap::new(),
    found: BTreeMap::new(),
    pictures: BTreeMap::new(),
    reported: BTreeSet::new(),
});

fn lock() -> MutexGuard<'static, Fonts> {
    // Every change leaves the value usable, so a panic in another thread does no harm.
    FONTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the glyph of a character in the first font that has it as an outline.
pub(crate) fn find(face: Face, c: char) -> Option<Glyph> {
    let mut fonts = lock();
    if let Some(found) = fonts.found.get(&(face, c)) {
        return *found;
    }
    let found = fonts.search(face, c);
    fonts.found.insert((face, c), found);
    found
}

/// Returns the characters that were not reported to the user yet, each with a family that has it
/// only as a picture, if there is one.
pub(crate) fn unreported(missing: &BTreeSet<char>) -> Vec<(char, Option<String>)> {
    let mut fonts = lock();
    let new = missing.iter().filter(|c| fonts.reported.insert(**c));
    let new: Vec<char> = new.copied().collect();
    let family = |c| fonts.pictures.get(&c).cloned();
    new.into_iter().map(|c| (c, family(c))).collect()
}

impl Fonts {
    fn search(&mut self, face: Face, c: char) -> Option<Glyph> {
        self.read_environment();
        // The list is taken out so that loading a font can borrow `self`.
        let named = std::mem::take(&mut self.named);
        let found = named.iter().find_map(|list| self.best(list, face, c));
        self.named = named;
        if found.is_some() {
            return found;
        }
        let system = self.system.take().unwrap_or_else(of_system);
        let found = self.best(&system, face, c);
        self.system = Some(system);
        found
    }

    fn read_environment(&mut self) {
        if std::mem::replace(&mut self.environment_read, true) {
            return;
        }
        let paths = std::env::var_os("INVARIANCES_FONTS").unwrap_or_default();
        for path in std::env::split_paths(&paths).filter(|p| !p.as_os_str().is_empty()) {
            match named(&path) {
                Ok(known) => self.named.push(known),
                Err(what) => eprintln!(
                    "warning: skipping {} from INVARIANCES_FONTS: {what}",
                    path.display()
                ),
            }
        }
    }

    /// Returns the glyph in the font that matches the face best.
    fn best(&mut self, list: &[Known], face: Face, c: char) -> Option<Glyph> {
        let mut having: Vec<&Known> = list.iter().filter(|known| known.has(c)).collect();
        having.sort_by_cached_key(|known| rank(known, face));
        for known in having {
            let id = match known.outlines {
                false => None,
                true => match self.load(known, face) {
                    None => continue,
                    Some(other) => other.glyph(c).map(|id| (other, id)),
                },
            };
            if id.is_some() {
                return id;
            }
            let family = || known.family.clone();
            self.pictures.entry(c).or_insert_with(family);
        }
        None
    }

    fn load(&mut self, known: &Known, face: Face) -> Option<&'static Other> {
        let place = (known.path.clone(), known.index, weight(face));
        let loaded = self.loaded.entry(place);
        // Figures refer to a font for as long as they exist, so it stays in memory until the
        // process ends.
        *loaded.or_insert_with(|| load(known, face).map(|other| &*Box::leak(Box::new(other))))
    }
}

/// Returns the fonts of a file or folder that the user named.
fn named(path: &Path) -> std::result::Result<Vec<Known>, String> {
    let folder = path.is_dir();
    let known = match folder {
        true => all(&[path.to_path_buf()]).0,
        false => fontfile::fonts(path)
            .map_err(|e| format!("expected a font (.ttf, .otf, .ttc, .otc): {e}"))?,
    };
    if known.iter().any(|k| k.outlines) {
        return Ok(known);
    }
    Err(match folder {
        true => "expected a folder with fonts (.ttf, .otf, .ttc, .otc), found none".into(),
        false => "expected a font with outlines, found pictures of glyphs".into(),
    })
}

/// Returns the fonts in these folders, and the number of unreadable files with the error of the
/// first one.
fn all(folders: &[PathBuf]) -> (Vec<Known>, Option<(usize, String)>) {
    /// Reading stops when the character maps take up more memory than this, in bytes.
    const MEMORY: usize = 256 << 20;
    let (mut known, mut memory) = (Vec::new(), 0);
    let mut unreadable: Option<(usize, String)> = None;
    for path in folders
        .iter()
        .flat_map(|folder| fontfile::in_folder(folder))
    {
        match fontfile::fonts(&path) {
            Ok(fonts) => {
                memory += fonts.iter().map(Known::size).sum::<usize>();
                known.extend(fonts);
            }
            Err(what) => {
                let first = || (0, format!("{}: {what}", path.display()));
                unreadable.get_or_insert_with(first).0 += 1;
            }
        }
        if memory > MEMORY {
            break;
        }
    }
    (known, unreadable)
}

/// Returns the installed fonts.
fn of_system() -> Vec<Known> {
    let mut folders = Vec::new();
    if let Some(conda) = std::env::var_os("CONDA_PREFIX").filter(|v| !v.is_empty()) {
        let conda = PathBuf::from(conda);
        folders.extend([conda.join("fonts"), conda.join("share/fonts")]);
    }
    folders.extend(dirs::font_dir());
    if cfg!(target_os = "macos") {
        let system = ["/Library/Fonts", "/System/Library/Fonts"];
        folders.extend(system.map(PathBuf::from));
        // Fonts that the system downloads when needed, such as PingFang.
        for version in 6..=8 {
            let folder = "/System/Library/AssetsV2/com_apple_MobileAsset_Font";
            folders.push(format!("{folder}{version}").into());
        }
    } else {
        folders.extend(dirs::home_dir().map(|h| h.join(".fonts")));
        let system = ["/usr/local/share/fonts", "/usr/share/fonts"];
        folders.extend(system.map(PathBuf::from));
    }
    let (known, unreadable) = all(&folders);
    if let Some((count, first)) = unreadable {
        eprintln!("warning: skipping {count} font files that cannot be read; the first is {first}");
    }
    known
}

/// Returns the weight that other fonts should have for a face.
fn weight(face: Face) -> u16 {
    match face {
        Face::Bold => 600,
        Face::Regular | Face::Italic | Face::Signs => 400,
    }
}

/// Returns a sort key for fonts, the best font first. The order is the same on every machine that
/// has the same fonts: first sans-serif families that look like Inter, then by similarity to the
/// face.
fn rank(known: &Known, face: Face) -> impl Ord + use<> {
    /// Families that are free or part of a system, the most suitable first.
    const PREFERRED: [&str; 15] = [
        "inter",
        "noto sans",
        "dejavu sans",
        "noto sans cjk jp",
        "noto sans jp",
        "source han sans",
        "hiragino sans",
        "pingfang sc",
        "noto sans cjk",
        "apple sd gothic neo",
        "noto sans math",
        "noto sans symbols",
        "noto emoji",
        "symbola",
        "arial unicode ms",
    ];
    let family = known.family.to_lowercase();
    let begins = |p: &(usize, &&str)| family.starts_with(*p.1);
    let preferred = PREFERRED.iter().enumerate().filter(begins);
    let preferred = preferred.max_by_key(|p| p.1.len()).map(|p| p.0);
    let has = |words: &[&str]| words.iter().any(|w| family.contains(w));
    let group = match preferred {
        // These fonts show the same placeholder for every character.
        _ if has(&["lastresort", "last resort", "adobe blank"]) => 99,
        _ if has(&["mono", "serif", "unifont", "song", "ming"]) => 50,
        Some(place) => place,
        None if has(&["sans", "gothic", "hei", "arial", "helvetica"]) => 30,
        None => 40,
    };
    let weight = weight(face);
    (
        group,
        family,
        known.width.abs_diff(5),
        known.italic != (face == Face::Italic),
        known.weight.abs_diff(weight),
        known.weight < weight,
        (known.path.clone(), known.index),
    )
}

/// Loads a font. A variable font is set to the weight that the face needs, or the nearest weight
/// it has.
fn load(known: &Known, face: Face) -> Option<Other> {
    let skip = |what: String| {
        eprintln!(
            "warning: skipping the font {}: {what}",
            known.path.display()
        );
    };
    let bytes = fontfile::read(&known.path).map_err(skip).ok()?;
    let mut hash = blake3::Hasher::new();
    hash.update(&bytes).update(&known.index.to_le_bytes());
    let font = FontVec::try_from_vec_and_index(bytes, known.index);
    let mut font = font
        .map_err(|_| skip("the font cannot be read".into()))
        .ok()?;
    let weight = f32::from(weight(face));
    let axes = font.variations();
    let axis = axes.into_iter().find(|axis| axis.tag == *b"wght");
    let wanted = axis.and_then(|axis| {
        let near = weight.max(axis.min_value).min(axis.max_value);
        (near != axis.default_value).then_some(near)
    });
    if let Some(wanted) = wanted {
        font.set_variation(b"wght", wanted);
        hash.update(&wanted.to_le_bytes());
    }
    Some(Other {
        font,
        index: known.index,
        family: known.family.clone(),
        key: hash.finalize().to_hex()[..8].into(),
        bold: known.weight >= 600,
        italic: known.italic,
        as_in_file: wanted.is_none(),
    })
}
