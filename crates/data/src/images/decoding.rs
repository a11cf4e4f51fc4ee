//! Reads and decodes the images of a set in parallel, and names the file of one that fails.

use super::{Images, Set, Source};
use crate::shards::KEPT;
use crate::{Error, Result, decode};
use image::DynamicImage;
use invariances_core::names::shown;
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// No limit on the sides of an image; only the memory limit applies.
pub(super) const ANY: u32 = u32::MAX;

impl Images {
    /// Decodes each image, of at most `longest` pixels per side, and applies `f`.
    pub(crate) fn decoded<T: Send>(
        &self,
        rows: &[usize],
        longest: u32,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.set.decoded(&self.origins_of(rows)?, longest, None, f)
    }

    /// Tries to decode each image; one result per row, in the order of the rows.
    pub(crate) fn attempts(&self) -> Result<Vec<Result<()>>> {
        self.set.attempts(&self.origins(), ANY, None, |_| Ok(()))
    }

    /// Returns the error for an image of this selection that is missing in the table.
    pub(crate) fn missing(&self, position: u32) -> Error {
        match self.origins_of(&[position as usize]) {
            Ok(rows) => self.set.missing(rows.first().copied().unwrap_or(0)),
            Err(error) => error,
        }
    }
}

impl Set {
    /// Creates an error about a row that contains the path of its file.
    pub(super) fn wrong(&self, row: u32, what: String) -> Error {
        match &self.source {
            Source::Shards(shards) => {
                let (path, row) = shards.file_of(row as usize);
                Error::content(path, format!("row {row}: {what}"))
            }
            Source::Folder(folder) => Error::content(folder.path(row as usize), what),
        }
    }

    /// Decodes the images in parallel and applies `f`; results are in the order of the rows.
    /// `resized` is the size to which `f` resizes an image, if it does.
    pub(super) fn decoded<T: Send>(
        &self,
        rows: &[u32],
        longest: u32,
        resized: Option<u32>,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        // If several rows fail, the error of the first row is returned, regardless of which
        // failed first.
        self.attempts(rows, longest, resized, f)?
            .into_iter()
            .collect()
    }

    /// Like [`Set::decoded`], with a separate result for each image.
    fn attempts<T: Send>(
        &self,
        rows: &[u32],
        longest: u32,
        resized: Option<u32>,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<Result<T>>> {
        let one = |row: u32, bytes: &[u8]| {
            decode::decode(bytes, longest, resized, &f).map_err(|e| self.wrong(row, e))?
        };
        let shards = match &self.source {
            Source::Folder(folder) => {
                let images = rows.par_iter();
                let images = images.map(|&row| one(row, &folder.read(row as usize)?));
                return Ok(images.collect());
            }
            Source::Shards(shards) => shards,
        };
        // Reads each page once and keeps about `KEPT` bytes of pages in memory at a time.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| rows[i]);
        let mut out: Vec<Option<Result<T>>> = (0..rows.len()).map(|_| None).collect();
        let mut next = 0;
        while next < order.len() {
            let mut pages = HashMap::new();
            let mut jobs = Vec::new();
            let mut size = 0;
            while let Some(&i) = order.get(next) {
                let (key, row) = shards.place(rows[i] as usize)?;
                let page = match pages.entry(key) {
                    Entry::Occupied(page) => page.into_mut(),
                    Entry::Vacant(_) if size > KEPT => break,
                    Entry::Vacant(place) => {
                        let page = shards.page(key)?;
                        size += page.size();
                        place.insert(page)
                    }
                };
                jobs.push((i, page.clone(), row));
                next += 1;
            }
            let done: Vec<(usize, Result<T>)> = jobs
                .into_par_iter()
                .map(|(i, page, row)| {
                    let image = match page.bytes(row) {
                        Some(bytes) => one(rows[i], bytes),
                        None => Err(self.missing(rows[i])),
                    };
                    (i, image)
                })
                .collect();
            for (i, image) in done {
                out[i] = Some(image);
            }
        }
        Ok(out.into_iter().flatten().collect())
    }

    fn missing(&self, row: u32) -> Error {
        match &self.source {
            Source::Shards(shards) => {
                let name = self
                    .path
                    .as_ref()
                    .and_then(|p| p.str().ok()?.get(row as usize));
                // `datasets` can write tables that refer to image files on the machine on which
                // they were made.
                let advice = name.map_or(String::new(), |name| {
                    format!(
                        ", only the path {:?}: write the table with the bytes of its images",
                        shown(name)
                    )
                });
                let (path, row) = shards.file_of(row as usize);
                Error::content(path, format!("row {row} has no image{advice}"))
            }
            Source::Folder(folder) => Error::content(folder.path(row as usize), "no image"),
        }
    }
}
