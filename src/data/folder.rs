//! Folders of image files: a folder per class.

use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The largest image file that is read.
const LARGEST: u64 = 256 << 20;
/// How deep folders may nest.
const DEPTH: usize = 16;

/// What the folders of a data set's parts are called.
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

/// Image files below a folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Without links: files that lie elsewhere are not read.
    root: PathBuf,
    /// Below it.
    files: Vec<PathBuf>,
}

/// What the folders' names say.
#[derive(Debug)]
pub(super) struct Names {
    pub classes: Vec<String>,
    pub labels: Vec<u32>,
    pub splits: Vec<String>,
    /// By image: the number of its split.
    pub split: Vec<u32>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<(Self, Names)> {
        let hint = "expected a folder with a folder of PNG or JPEG files per class";
        let io = |e| Error::io(path, e).with_hint(hint);
        let root = path.canonicalize().map_err(io)?;
        let mut files = Vec::new();
        for name in entries(&root).map_err(io)? {
            if is_folder(&root.join(&name)) {
                scan(&root, Path::new(&name), 1, &mut files)?;
            }
        }
        // Without a folder per class the folder is the class: frames of a film, say.
        let flat = files.is_empty();
        if flat {
            for name in entries(&root).map_err(io)? {
                keep_image(&root, PathBuf::from(name), &mut files);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(Error::content(
                path,
                "no images: expected a folder per class, such as class/1.png or train/class/1.jpg, or a folder of images",
            ));
        }
        if u32::try_from(files.len()).is_err() {
            return Err(Error::content(path, "more than 2^32 images"));
        }
        let part = |file: &Path, n: usize| {
            let parts: Vec<_> = file.components().take(n + 2).collect();
            // The last part is the file's own name.
            match parts.get(n) {
                Some(Component::Normal(name)) if parts.len() > n + 1 => {
                    Some(name.to_string_lossy().into_owned())
                }
                _ => None,
            }
        };
        let is_split = |file: &PathBuf| {
            let first = part(file, 0).unwrap_or_default().to_lowercase();
            SPLITS.contains(&first.as_str()) && part(file, 1).is_some()
        };
        let in_splits = files.iter().all(is_split);
        let level = usize::from(in_splits);
        let names = |n: usize| {
            let of: Vec<String> = files
                .iter()
                .map(|f| part(f, n).unwrap_or_default())
                .collect();
            let set: BTreeSet<&String> = of.iter().collect();
            let set: Vec<String> = set.into_iter().cloned().collect();
            let number = |name: &String| set.binary_search(name).unwrap_or(0) as u32;
            let numbers = of.iter().map(number).collect();
            (set, numbers)
        };
        let (mut classes, labels) = names(level);
        if flat {
            let name = root.file_name().unwrap_or_default();
            classes = vec![name.to_string_lossy().into_owned()];
        }
        let (splits, split) = if in_splits {
            names(0)
        } else {
            (Vec::new(), Vec::new())
        };
        let names = Names {
            classes,
            labels,
            splits,
            split,
        };
        Ok((Self { root, files }, names))
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// An image's place below the folder.
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
        // Again, and not only when the folder was listed: what is there now is what is read.
        let Some(target) = target(&self.root, &path).map_err(io)? else {
            return Err(Error::content(
                &path,
                "no file within its folder: links that leave it are not followed",
            ));
        };
        let file = File::open(&target).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::content(
                &path,
                format!("more than {LARGEST} bytes, expected a PNG or JPEG file"),
            ));
        }
        Ok(bytes)
    }
}

/// The names in a folder, without hidden ones.
fn entries(path: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether it is a folder itself; a link to one is none, so that no walk goes in circles.
fn is_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// Where a file lies, through links, if that is within the folder.
fn target(root: &Path, path: &Path) -> std::io::Result<Option<PathBuf>> {
    let target = path.canonicalize()?;
    let inside = target.starts_with(root) && std::fs::metadata(&target)?.is_file();
    Ok(inside.then_some(target))
}

fn scan(root: &Path, below: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(below);
    if depth > DEPTH {
        return Err(Error::content(
            folder,
            format!("folders nest deeper than {DEPTH} levels"),
        ));
    }
    for name in entries(&folder).map_err(|e| Error::io(&folder, e))? {
        let below = below.join(name);
        let path = root.join(&below);
        if is_folder(&path) {
            scan(root, &below, depth + 1, files)?;
            continue;
        }
        keep_image(root, below, files);
    }
    Ok(())
}

fn keep_image(root: &Path, below: PathBuf, files: &mut Vec<PathBuf>) {
    let ending = below.extension().map(|e| e.to_ascii_lowercase());
    let is_image = ending.is_some_and(|e| e == "png" || e == "jpg" || e == "jpeg");
    // A link that leads nowhere or elsewhere is no image of this folder.
    if is_image && target(root, &root.join(&below)).ok().flatten().is_some() {
        files.push(below);
    }
}
