//! Finds and leaves out images that cannot be decoded.

use super::Images;
use crate::{Error, Result};
use std::fmt;

/// The images that [`Images::readable`] left out, with the reasons.
///
/// `Display` prints one line with their number, then one line for each of the first twenty.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Unreadable {
    /// Their row numbers in the images that were checked.
    pub rows: Vec<usize>,
    /// The error of each image; its message contains the path of the file.
    pub errors: Vec<Error>,
}

impl Unreadable {
    /// Returns the number of images that were left out.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no image was left out.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        let count = self.len();
        let images = if count == 1 { "image" } else { "images" };
        write!(f, "left out {count} {images} that cannot be decoded")?;
        for error in self.errors.iter().take(SHOWN) {
            write!(f, "\n  {error}")?;
        }
        if count > SHOWN {
            write!(f, "\n  and {} more", count - SHOWN)?;
        }
        Ok(())
    }
}

impl Images {
    /// Decodes every image once and returns those that can be decoded, in the same order,
    /// together with a list of the others.
    ///
    /// Without this check, the first file that is damaged, truncated or missing causes an error
    /// when its batch is read, perhaps hours into a training run. The check takes the time of one
    /// pass over the images and keeps none of them in memory.
    ///
    /// ```
    /// use invariances_data::*;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path();
    /// # std::fs::create_dir(path.join("fox")).unwrap();
    /// # image::RgbImage::new(8, 6).save(path.join("fox/1.png")).unwrap();
    /// # std::fs::write(path.join("fox/2.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    /// let (images, left_out) = Images::folder(path)?.readable()?;
    /// assert_eq!((images.len(), left_out.len()), (1, 1));
    /// println!("{left_out}"); // left out 1 image that cannot be decoded …/fox/2.png: …
    /// # assert!(left_out.to_string().contains("fox/2.png"));
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Content`] or [`Error::Io`] for a parquet file with a page that cannot be read. A
    /// file of a folder that cannot be read is left out.
    pub fn readable(&self) -> Result<(Self, Unreadable)> {
        let (mut good, mut left_out) = (Vec::new(), Unreadable::default());
        for (row, attempt) in self.attempts()?.into_iter().enumerate() {
            match attempt {
                Ok(()) => good.push(row),
                Err(error) => {
                    left_out.rows.push(row);
                    left_out.errors.push(error);
                }
            }
        }
        let images = if left_out.is_empty() {
            self.clone()
        } else {
            self.select(&good)?
        };
        Ok((images, left_out))
    }
}
