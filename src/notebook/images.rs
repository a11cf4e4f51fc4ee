//! Images given by the user in an environment variable: a folder, parquet files or a dataset of
//! the hub ([`Lab::images`], [`Lab::frames`]).

use super::Lab;
use super::subject::unknown;
use crate::data::{ImageColumns, Images};
use crate::hub::parquet_split;
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::say;
use std::path::{Path, PathBuf};

impl Lab {
    /// The images in the variable `INVARIANCES_IMAGES`: a folder of class folders, a parquet
    /// file, or a dataset of the hub (`owner/name`, its split `train`), with options after a `?`;
    /// [`Lab`] lists them.
    ///
    /// By default, a file that cannot be decoded causes an error when it is read. If the setting
    /// `unreadable` is `leave-out` (`--set unreadable=leave-out`), such files are left out and
    /// listed before training; see [`Images::readable`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the variable is not set, or for another value of the setting;
    /// [`Error::Unknown`] if the file, folder or dataset does not exist; also as
    /// [`Images::folder`], [`Images::parquet`] and [`Repo::parquet`](crate::hub::Repo::parquet).
    pub fn images(&self) -> Result<Images> {
        let images = self.images_in("INVARIANCES_IMAGES")?.ok_or_else(|| {
            Error::invalid(format!(
                "scale {} needs images: set INVARIANCES_IMAGES to a folder of class folders, a parquet file, or a dataset of the hub (owner/name)",
                self.scale()
            ))
        })?;
        self.readable(images)
    }

    /// The images that can be decoded, if the setting `unreadable` requires it; otherwise all.
    fn readable(&self, images: Images) -> Result<Images> {
        let all = ["error", "leave-out"];
        let value = self.setting("unreadable", all[0].to_string())?;
        if value == all[0] {
            return Ok(images);
        }
        if value != all[1] {
            return Err(unknown("unreadable", &value, &all));
        }
        let (images, left_out) = images.readable()?;
        if !left_out.is_empty() {
            say(&left_out.to_string());
        }
        Ok(images)
    }

    /// Up to `count` frames of the film in the variable `INVARIANCES_FRAMES`, evenly spaced over
    /// its length, resized to `size` × `size` pixels: (count, 3, size, size) in [−1, 1]. The film
    /// is a folder of image files in the order of their names, or another source that
    /// [`Lab::images`] accepts. Returns `None` if the variable is not set.
    ///
    /// # Errors
    /// As [`Lab::images`] and [`Images::batch`].
    pub fn frames(&self, size: usize, count: usize) -> Result<Option<Tensor>> {
        let Some(images) = self.images_in("INVARIANCES_FRAMES")? else {
            return Ok(None);
        };
        let images = self.readable(images)?;
        let (total, frames) = (images.len(), count.clamp(1, images.len().max(1)));
        let rows: Vec<usize> = (0..frames).map(|k| k * total / frames).collect();
        Ok(Some(images.batch(&rows, size)?.images))
    }

    /// The images in the variable, or `None` if it is not set.
    pub(super) fn images_in(&self, variable: &str) -> Result<Option<Images>> {
        let text = std::env::var(variable).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let source = Source::parse(text).map_err(|e| Error::invalid(format!("{variable}: {e}")))?;
        match source.open()? {
            Some(images) => Ok(Some(images)),
            None if is_hub_name(source.name) => {
                let split = source.split.as_deref().unwrap_or("train");
                let files = self.hub()?.dataset(source.name)?.parquet(split)?;
                Images::parquet(&files, &source.columns).map(Some)
            }
            None => Err(Error::unknown(format!(
                "{variable}: there is no file or folder {:?}, and it is not the name of a dataset of the hub (owner/name)",
                source.name
            ))),
        }
    }
}

/// A folder, a file or a dataset of the hub, with the options after its name.
#[derive(Debug, PartialEq)]
struct Source<'a> {
    name: &'a str,
    split: Option<String>,
    columns: ImageColumns,
}

impl<'a> Source<'a> {
    /// Parses `NAME?key=value&key=value`. If a file or folder with the whole text as its name
    /// exists, including the `?`, it is used.
    fn parse(text: &'a str) -> Result<Self> {
        let (name, query) = match text.rsplit_once('?') {
            Some(parts) if !Path::new(text).exists() => parts,
            _ => (text, ""),
        };
        let (mut split, mut rest) = (None, Vec::new());
        for part in query.split('&') {
            match part.strip_prefix("split=") {
                Some(name) => split = Some(name.to_string()).filter(|name| !name.is_empty()),
                None => rest.push(part),
            }
        }
        let columns = rest.join("&").parse().map_err(|e| {
            Error::invalid(format!(
                "{e}; the options after ? are image=COLUMN, label=COLUMN, unlabelled=skip and split=NAME, separated by &"
            ))
        })?;
        Ok(Self {
            name,
            split,
            columns,
        })
    }

    /// The images of a folder or file, or `None` if it does not exist.
    fn open(&self) -> Result<Option<Images>> {
        let path = Path::new(self.name);
        if path.is_file() {
            let images = Images::parquet(&[path], &self.columns)?;
            return self.select_split(images).map(Some);
        }
        if !path.is_dir() {
            return Ok(None);
        }
        let files = parquet_files(path)?;
        if files.is_empty() {
            if self.columns != ImageColumns::default() {
                return Err(Error::unsupported(format!(
                    "{}: the options image=, label= and unlabelled= need parquet files, found a folder of image files",
                    self.name
                )));
            }
            return self.select_split(Images::folder(path)?).map(Some);
        }
        let what = format!("the folder {}", self.name);
        let split = self.split.as_deref().unwrap_or("train");
        let names = match parquet_split(&what, &files, split) {
            // A single file is used even if its name contains no split.
            Err(_) if self.split.is_none() && files.len() == 1 => files,
            found => found?,
        };
        let paths: Vec<PathBuf> = names.iter().map(|name| path.join(name)).collect();
        Images::parquet(&paths, &self.columns).map(Some)
    }

    /// The selected split, or all images if no split is given.
    fn select_split(&self, images: Images) -> Result<Images> {
        match &self.split {
            Some(split) => images.of_split(split),
            None => Ok(images),
        }
    }
}

/// Whether the name has the form `owner/name` and is not a path.
fn is_hub_name(name: &str) -> bool {
    name.split('/').count() == 2 && !name.starts_with(['.', '/', '~'])
}

/// The parquet files in a folder and in its folder `data`, as sorted relative paths with `/`. A
/// `metadata.parquet` is skipped, because it accompanies image files.
fn parquet_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for below in ["", "data"] {
        let place = folder.join(below);
        if !place.is_dir() {
            continue;
        }
        let io = |e| Error::io(&place, e);
        for entry in std::fs::read_dir(&place).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_table = name.ends_with(".parquet") && !name.starts_with('.');
            if is_table && name != "metadata.parquet" && entry.path().is_file() {
                files.push(match below {
                    "" => name,
                    below => format!("{below}/{name}"),
                });
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_followed_by_settings() -> Result<()> {
        let parsed = Source::parse("a/b.parquet?image=img&split=test&label=fine%26coarse")?;
        assert_eq!(
            (parsed.name, parsed.split.as_deref()),
            ("a/b.parquet", Some("test"))
        );
        assert_eq!(parsed.columns, ImageColumns::named("img", "fine&coarse"));
        let plain = Source::parse("uoft-cs/cifar100")?;
        assert_eq!((plain.name, plain.split), ("uoft-cs/cifar100", None));
        assert_eq!(plain.columns, ImageColumns::default());
        let bare = Source::parse("x.parquet?label=&unlabelled=skip")?.columns;
        assert!(bare.label.is_none() && bare.skip_unlabelled);
        for (text, expected) in [
            ("x?lable=y", "label=COLUMN"),
            ("x?image=", "expected the name of a column"),
            ("x?unlabelled=keep", "expected unlabelled=skip"),
            ("x?spilt=test", "split=NAME"),
        ] {
            let text = Source::parse(text).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_file_whose_name_has_a_question_mark_is_that_file() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let path = folder.path().join("which?label=x.parquet");
        std::fs::write(&path, b"").map_err(|e| Error::io(&path, e))?;
        let text = path.to_string_lossy();
        assert_eq!(Source::parse(&text)?.name, text);
        Ok(())
    }
}
