//! Folders of image files with one folder per class.
//!
//! [`walk`] lists the files, this file determines the classes, and [`report`] describes what was
//! left out.

mod report;
mod walk;

pub use report::FolderReport;

use super::Images;
use super::decode::FORMATS;
use crate::{Error, Result};
use invariances_core::say;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use walk::Walk;

/// Maximum size of an image file in bytes.
const LARGEST: u64 = 256 << 20;

/// Settings of [`Images::folder_with`].
///
/// ```
/// use invariances_data::*;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path();
/// # std::fs::create_dir(path.join("lynx")).unwrap();
/// # image::RgbImage::new(8, 6).save(path.join("lynx/1.png")).unwrap();
/// // A test set without images of foxes that has the class numbers of the training set.
/// let classes = vec!["fox".to_string(), "lynx".to_string()];
/// let options = FolderOptions { classes: Some(classes), ..Default::default() };
/// let images = Images::folder_with(path, &options)?;
/// assert_eq!(images.labels(), Some(vec![1]));
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// The class names, in the order of the class numbers. Default: the sorted names of the class
    /// folders.
    pub classes: Option<Vec<String>>,
    /// Whether to follow links that lead out of the folder and links to folders. Default: true.
    ///
    /// No folder is read twice for the same class, so loops of links end.
    pub follow_links: bool,
}

impl Default for FolderOptions {
    fn default() -> Self {
        Self {
            classes: None,
            follow_links: true,
        }
    }
}

/// Image files below a folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// The canonical path, without links.
    root: PathBuf,
    /// Paths relative to the root.
    files: Vec<PathBuf>,
    follow_links: bool,
    report: FolderReport,
    /// The class names if they differ from the sorted names of the folders with images; empty
    /// otherwise.
    numbering: Vec<String>,
}

/// Classes and splits, determined from the names of the folders.
#[derive(Debug)]
pub(super) struct Names {
    pub classes: Vec<String>,
    pub labels: Vec<u32>,
    pub splits: Vec<String>,
    /// Per image: the number of its split.
    pub split: Vec<u32>,
}

impl Folder {
    pub(super) fn open(path: &Path, options: &FolderOptions) -> Result<(Self, Names)> {
        if let Some(classes) = &options.classes {
            check_classes(classes)?;
        }
        let hint = "expected a folder with a folder of images per class";
        let io = |e| Error::io(path, e).with_hint(hint);
        let root = path.canonicalize().map_err(io)?;
        let walk = Walk::below(&root, options.follow_links)?;
        let (mut files, mut report) = (walk.files, walk.report);
        report.folder = path.into();
        // If there are no class folders, the folder itself is the class, for example the frames
        // of a film.
        let flat = files.is_empty();
        if flat {
            files = walk.beside;
        } else {
            report.beside_classes = walk.beside.len();
        }
        files.sort();
        if files.is_empty() {
            let mut what = format!(
                "no images: expected a folder per class, such as class/1.png or train/class/1.jpg, \
                 or a folder of images, in {FORMATS}"
            );
            let left_out = report.left_out();
            if !left_out.is_empty() {
                what += &format!("; found {}", left_out.join(", "));
            }
            if report.other_files.contains_key("parquet") {
                what += "; use `Images::parquet` for parquet files";
            }
            return Err(Error::content(path, what));
        }
        if u32::try_from(files.len()).is_err() {
            return Err(Error::content(
                path,
                "expected at most 2^32 images, found more",
            ));
        }
        let in_splits = files.iter().all(|f| is_split(f));
        let level = usize::from(in_splits);
        let of_files: Vec<String> = if flat {
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            vec![name.into_owned(); files.len()]
        } else {
            files.iter().map(|f| part(f, level)).collect()
        };
        let with_images: BTreeSet<&str> = of_files.iter().map(String::as_str).collect();
        let classes: Vec<String> = match &options.classes {
            Some(classes) => {
                let path = path.display().to_string();
                check_known(&with_images, classes).map_err(|e| Error::unknown(path + ": " + &e))?;
                classes.clone()
            }
            None => {
                let mut all: BTreeSet<&str> = with_images.clone();
                if !flat {
                    let folders = walk.folders.iter().filter(|f| f.level == level);
                    all.extend(folders.map(|f| f.name.as_str()));
                }
                all.into_iter().map(String::from).collect()
            }
        };
        let empty = classes.iter().filter(|c| !with_images.contains(&***c));
        report.empty_classes = empty.cloned().collect();
        report.images = files.len();
        report.classes = classes.len();
        let numbering = if classes.iter().eq(with_images.iter()) {
            Vec::new()
        } else {
            classes.clone()
        };
        let labels = numbers(&classes, &of_files);
        let (mut splits, mut split) = (Vec::new(), Vec::new());
        if in_splits {
            let of_files: Vec<String> = files.iter().map(|f| part(f, 0)).collect();
            let distinct: BTreeSet<String> = of_files.iter().cloned().collect();
            splits = distinct.into_iter().collect();
            split = numbers(&splits, &of_files);
        }
        let names = Names {
            classes,
            labels,
            splits,
            split,
        };
        let folder = Self {
            root,
            files,
            follow_links: options.follow_links,
            report,
            numbering,
        };
        Ok((folder, names))
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn numbering(&self) -> &[String] {
        &self.numbering
    }

    /// Returns the path of an image relative to the folder.
    pub(super) fn name(&self, row: usize) -> String {
        let file = self.files.get(row).map(PathBuf::as_path);
        file.unwrap_or(Path::new("")).to_string_lossy().into_owned()
    }

    pub(super) fn path(&self, row: usize) -> PathBuf {
        let file = self.files.get(row).map(PathBuf::as_path);
        self.root.join(file.unwrap_or(Path::new("")))
    }

    pub(super) fn read(&self, row: usize) -> Result<Vec<u8>> {
        let path = self.path(row);
        let io = |e| Error::io(&path, e);
        // Check the target again, not only when the folder is listed: it may have changed.
        let target = path.canonicalize().map_err(io)?;
        if !self.follow_links && !target.starts_with(&self.root) {
            return Err(Error::content(
                &path,
                "found a link that leaves the folder: set `follow_links` to follow it",
            ));
        }
        if !std::fs::metadata(&target).map_err(io)?.is_file() {
            return Err(Error::content(
                &path,
                "expected a regular file, found a folder or a special file",
            ));
        }
        let file = File::open(&target).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::content(
                &path,
                format!("expected an image file of at most {LARGEST} bytes, found more"),
            ));
        }
        Ok(bytes)
    }
}

impl Images {
    /// Opens the images of a folder with one folder per class. Images can be at any depth below
    /// the class folder: `class/…/1.png`. If all folders have names of splits (train, val, test
    /// and similar ones), the form is `train/class/…/1.png`. A folder that contains only files is
    /// one class with the folder's own name. Images are sorted by path.
    ///
    /// **Classes** are numbered as by torchvision's `ImageFolder`: the names of the class
    /// folders, sorted. With `train`, `test` and so on, the classes are those of all splits
    /// together. A class folder without images also counts, so that a training folder and a test
    /// folder have the same numbers. [`Images::folder_with`] fixes the numbers by a list of
    /// names.
    ///
    /// **Files** are recognised by the extension of a format that can be read (PNG, JPEG, WebP,
    /// BMP, TIFF, GIF, PNM). Links are followed, including links out of the folder, which the
    /// cache of the Hugging Face Hub uses. Hidden files and leftovers of operating systems and
    /// archives (`__MACOSX`, `Thumbs.db` and so on) are neither images nor classes. Everything
    /// else that is left out, and each class without images, is printed in one line;
    /// [`Images::report`] returns the same as values.
    ///
    /// Files are not opened at this point. A file that cannot be decoded is an error, with its
    /// path, when it is read. [`Images::readable`] finds and leaves out such files before
    /// training.
    ///
    /// ```
    /// use invariances_data::*;
    /// use polars::prelude::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path();
    /// # for name in ["fox/1.png", "fox/2.png", "lynx/1.png"] {
    /// #     std::fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
    /// #     image::RgbImage::new(8, 6).save(path.join(name)).unwrap();
    /// # }
    /// let images = Images::folder(path)?;
    /// assert_eq!(images.classes(), ["fox", "lynx"]);
    /// assert_eq!(images.of_class("fox")?.len(), 2);
    /// // Any selection that can be expressed with a data frame.
    /// let mask = images.frame()?.column("path")?.str()?.equal("lynx/1.png");
    /// assert_eq!(images.filter(&mask)?.batch(&[0], 4)?.images.dims(), [1, 3, 4, 4]);
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be listed; [`Error::Content`] for a folder without
    /// images or with folders nested deeper than 16 levels.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        Self::folder_with(path, &FolderOptions::default())
    }

    /// Like [`Images::folder`], with settings for the class numbers and for links.
    ///
    /// # Errors
    /// Those of [`Images::folder`]; [`Error::Invalid`] for a list of classes that is empty or
    /// contains a name twice; [`Error::Unknown`] for a folder with images whose name is not in the
    /// list. A class of the list without images is reported as an empty class.
    pub fn folder_with(path: impl AsRef<Path>, options: &FolderOptions) -> Result<Self> {
        let (folder, names) = Folder::open(path.as_ref(), options)?;
        if folder.report.needs_attention() {
            say(&folder.report.to_string());
        }
        Ok(Self::of_folder(folder, names))
    }

    /// Returns what was found and left out when the folder of these images was opened; `None` for
    /// images of parquet files.
    ///
    /// ```
    /// use invariances_data::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path();
    /// # std::fs::create_dir(path.join("fox")).unwrap();
    /// # image::RgbImage::new(8, 6).save(path.join("fox/1.png")).unwrap();
    /// std::fs::write(path.join("fox/notes.txt"), "seen in May").unwrap();
    /// let report = Images::folder(path)?.report().unwrap();
    /// assert_eq!((report.images, report.other_files["txt"]), (1, 1));
    /// assert!(report.to_string().ends_with("1 image in 1 class; left out: 1 .txt file"));
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    pub fn report(&self) -> Option<FolderReport> {
        Some(self.folder_source()?.report.clone())
    }
}

/// Returns the name of a file's folder at a level; empty if there is none.
fn part(file: &Path, level: usize) -> String {
    let parts: Vec<_> = file.components().take(level + 2).collect();
    match parts.get(level) {
        // The last component is the name of the file itself.
        Some(Component::Normal(name)) if parts.len() > level + 1 => {
            name.to_string_lossy().into_owned()
        }
        _ => String::new(),
    }
}

/// Whether a file lies in a class folder of a split.
fn is_split(file: &Path) -> bool {
    walk::is_split_name(&part(file, 0)) && !part(file, 1).is_empty()
}

/// Returns, for each element of `of_files`, its index in `names`.
fn numbers(names: &[String], of_files: &[String]) -> Vec<u32> {
    let numbers = names.iter().map(String::as_str).zip(0u32..);
    let numbers: BTreeMap<&str, u32> = numbers.collect();
    let number = |name: &String| numbers.get(name.as_str()).copied().unwrap_or(0);
    of_files.iter().map(number).collect()
}

fn check_classes(classes: &[String]) -> Result<()> {
    if classes.is_empty() {
        return Err(Error::invalid(
            "expected at least one name in the list of classes, found none",
        ));
    }
    let mut names = BTreeSet::new();
    for name in classes {
        if name.is_empty() || !names.insert(name) {
            return Err(Error::invalid(format!(
                "expected different names in the list of classes, found {name:?} twice or empty"
            )));
        }
    }
    Ok(())
}

/// Checks that each folder with images is a class of the list.
fn check_known(
    with_images: &BTreeSet<&str>,
    classes: &[String],
) -> std::result::Result<(), String> {
    let list = |names: Vec<&str>| {
        let shown = names.iter().take(20).map(|n| format!("{n:?}"));
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if names.len() > 20 {
            text += &format!(" and {} more", names.len() - 20);
        }
        text
    };
    let known: BTreeSet<&str> = classes.iter().map(String::as_str).collect();
    let unknown: Vec<&str> = with_images.difference(&known).copied().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = known.difference(with_images).copied().collect();
    let mut what = format!(
        "expected folders with the names in the list of classes, found images in {}, which are not in the list",
        list(unknown)
    );
    if !missing.is_empty() {
        what += &format!("; without images are {}", list(missing));
    }
    Err(what)
}
