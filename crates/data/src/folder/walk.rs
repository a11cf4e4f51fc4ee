//! Lists the image files of a folder of class folders.

use super::FolderReport;
use crate::{Error, Result};
use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Maximum nesting depth of folders.
const DEPTH: usize = 16;

/// Names of folders that are splits of a dataset.
const SPLITS: [&str; 10] = [
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "dev",
    "test",
    "testing",
    "eval",
    "holdout",
];

/// Extensions of the formats that can be read.
const EXTENSIONS: [&str; 16] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "tif", "tiff", "gif", "ppm",
    "pgm", "pbm", "pnm",
];

/// Names, in lower case, of files and folders that operating systems and archives leave behind.
/// Other leftovers are hidden files.
const LEFTOVERS: [&str; 9] = [
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
];

pub(super) fn is_split_name(name: &str) -> bool {
    SPLITS.contains(&name.to_lowercase().as_str())
}

/// A folder whose name may be a class.
pub(super) struct ClassFolder {
    pub name: String,
    /// 0 in the folder that was opened, 1 in one of its split folders (`train`).
    pub level: usize,
}

/// The result of listing a folder.
pub(super) struct Walk<'a> {
    root: &'a Path,
    follow_links: bool,
    /// Image files in class folders, relative to the root.
    pub files: Vec<PathBuf>,
    /// Image files in the root itself, outside the class folders.
    pub beside: Vec<PathBuf>,
    pub folders: Vec<ClassFolder>,
    pub report: FolderReport,
    /// The folders that were read for the current class, as paths without links.
    read: HashSet<PathBuf>,
    /// Links to folders that remain to be read for the current class.
    links: VecDeque<Place>,
}

/// A folder: its path relative to the root, and its real path without links.
#[derive(Clone)]
struct Place {
    below: PathBuf,
    real: PathBuf,
    depth: usize,
}

impl Place {
    fn entry(&self, name: &OsString) -> Self {
        Self {
            below: self.below.join(name),
            real: self.real.join(name),
            depth: self.depth + 1,
        }
    }
}

/// The kind of a directory entry.
enum Kind {
    Folder,
    /// A link to a folder, with the real path of that folder.
    FolderLink(PathBuf),
    File,
    /// A link to a file outside the root.
    OutsideFile,
    /// A broken link, a pipe or a device.
    Nothing,
}

impl<'a> Walk<'a> {
    /// Lists a folder; `root` must be a path without links.
    pub(super) fn below(root: &'a Path, follow_links: bool) -> Result<Self> {
        let mut walk = Self {
            root,
            follow_links,
            files: Vec::new(),
            beside: Vec::new(),
            folders: Vec::new(),
            report: FolderReport::default(),
            read: HashSet::new(),
            links: VecDeque::new(),
        };
        let top = Place {
            below: PathBuf::new(),
            real: root.into(),
            depth: 0,
        };
        for name in walk.entries(&top.real)? {
            let entry = top.entry(&name);
            match walk.folder(&entry) {
                Some(entry) => walk.top_folder(&name, entry)?,
                None if walk.is_image(&entry) => walk.beside.push(entry.below),
                None => {}
            }
        }
        Ok(walk)
    }

    /// Reads a top-level folder: a class, or a split that contains classes.
    fn top_folder(&mut self, name: &OsString, place: Place) -> Result<()> {
        let text = name.to_string_lossy().into_owned();
        let is_split = is_split_name(&text);
        self.folders.push(ClassFolder {
            name: text,
            level: 0,
        });
        if !is_split {
            return self.class(place, []);
        }
        for name in self.entries(&place.real)? {
            let entry = place.entry(&name);
            match self.folder(&entry) {
                Some(entry) => {
                    self.folders.push(ClassFolder {
                        name: name.to_string_lossy().into_owned(),
                        level: 1,
                    });
                    self.class(entry, [place.real.clone()])?;
                }
                None => self.keep(entry),
            }
        }
        Ok(())
    }

    /// Reads all files of a class: first its own folders, then the folders that links lead to, in
    /// their order.
    fn class<const N: usize>(&mut self, place: Place, above: [PathBuf; N]) -> Result<()> {
        self.read = HashSet::from([self.root.to_path_buf()]);
        self.read.extend(above);
        self.links.push_back(place);
        while let Some(place) = self.links.pop_front() {
            self.read_folder(place)?;
        }
        Ok(())
    }

    fn read_folder(&mut self, place: Place) -> Result<()> {
        if place.depth > DEPTH {
            return Err(Error::content(
                self.root.join(place.below),
                format!("expected folders of at most {DEPTH} levels, found more"),
            ));
        }
        if !self.read.insert(place.real.clone()) {
            self.report.repeated_folders += 1;
            return Ok(());
        }
        for name in self.entries(&place.real)? {
            let entry = place.entry(&name);
            match self.kind(&entry) {
                Kind::Folder => self.read_folder(entry)?,
                Kind::FolderLink(_) if !self.follow_links => self.report.refused_links += 1,
                Kind::FolderLink(real) => self.links.push_back(Place { real, ..entry }),
                _ => self.keep(entry),
            }
        }
        Ok(())
    }

    /// Returns the sorted names in a folder, without hidden files and leftovers.
    fn entries(&mut self, real: &Path) -> Result<Vec<OsString>> {
        let io = |e| Error::io(real, e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(real).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with('.') || LEFTOVERS.contains(&text.as_str()) {
                self.report.system_files += 1;
            } else {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn kind(&self, place: &Place) -> Kind {
        let Ok(about) = std::fs::symlink_metadata(&place.real) else {
            return Kind::Nothing;
        };
        if about.is_dir() {
            return Kind::Folder;
        }
        if about.is_file() {
            return Kind::File;
        }
        let Ok(target) = place.real.canonicalize() else {
            return Kind::Nothing;
        };
        match std::fs::metadata(&target) {
            Ok(about) if about.is_dir() => Kind::FolderLink(target),
            Ok(about) if about.is_file() && target.starts_with(self.root) => Kind::File,
            Ok(about) if about.is_file() => Kind::OutsideFile,
            _ => Kind::Nothing,
        }
    }

    /// Returns the folder that an entry is or links to, if it is to be read.
    fn folder(&self, entry: &Place) -> Option<Place> {
        match self.kind(entry) {
            Kind::Folder => Some(entry.clone()),
            Kind::FolderLink(real) if self.follow_links => Some(Place {
                real,
                ..entry.clone()
            }),
            _ => None,
        }
    }

    /// Keeps an entry that is not a folder if it is an image.
    fn keep(&mut self, entry: Place) {
        if self.is_image(&entry) {
            self.files.push(entry.below);
        }
    }

    /// Whether an entry that is not a folder is an image, by its extension. Entries that are left
    /// out are counted.
    fn is_image(&mut self, entry: &Place) -> bool {
        let kind = self.kind(entry);
        let extension = entry.below.extension().unwrap_or_default();
        let extension = extension.to_string_lossy().to_lowercase();
        let is_image = EXTENSIONS.contains(&extension.as_str());
        match kind {
            Kind::File if is_image => return true,
            Kind::OutsideFile if is_image && self.follow_links => return true,
            Kind::FolderLink(_) => self.report.refused_links += 1,
            Kind::OutsideFile if is_image => self.report.refused_links += 1,
            Kind::Nothing if is_image || extension.is_empty() => self.report.missing_files += 1,
            _ => *self.report.other_files.entry(extension).or_default() += 1,
        }
        false
    }
}
