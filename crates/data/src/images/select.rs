//! Selections: views of the same files.

use super::Images;
use crate::{Error, Result};
use invariances_ops::Rng;
use polars::prelude::*;
use std::sync::Arc;

impl Images {
    /// Selects the images with these row numbers, in this order. Rows may be repeated.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(self.view(self.origins_of(rows)?))
    }

    /// Selects the images for which a mask is true, such as
    /// `images.frame()?.column("label")?.u32()?.equal(3)` (with `use polars::prelude::*;`).
    ///
    /// # Errors
    /// [`Error::Shape`] unless the mask has one value per image.
    pub fn filter(&self, mask: &BooleanChunked) -> Result<Self> {
        if mask.len() != self.len() {
            return Err(Error::shape(format!(
                "expected a mask with one value for each of {} images, found {}",
                self.len(),
                mask.len()
            )));
        }
        let rows = self.origins().into_iter().zip(mask.iter());
        Ok(self.view(
            rows.filter(|(_, m)| *m == Some(true))
                .map(|(r, _)| r)
                .collect(),
        ))
    }

    /// Selects the images of a class by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name (the message lists the known names), and for images
    /// without labels.
    pub fn of_class(&self, name: &str) -> Result<Self> {
        let set = &self.set;
        let Some(labels) = &set.labels else {
            return Err(Error::unknown(format!(
                "no class {name:?}: these images have no labels; set the label column, such as `ImageColumns {{ label: Some(\"label\".into()), ..Default::default() }}`"
            )));
        };
        let number = number_of("class", name, &set.classes)?;
        Ok(self.of(labels, number))
    }

    /// Selects the images of a split by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name; the message lists the known names.
    pub fn of_split(&self, name: &str) -> Result<Self> {
        let number = number_of("split", name, &self.set.splits)?;
        Ok(self.of(&self.set.split, number))
    }

    fn of(&self, numbers: &[u32], number: u32) -> Self {
        let mut rows = self.origins();
        rows.retain(|&r| numbers.get(r as usize) == Some(&number));
        self.view(rows)
    }

    /// Splits the images at random into two disjoint parts. The first contains the fraction
    /// `share` of the images, the second the others. Both keep the order of the images. The
    /// result depends on `seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `share` is from 0 to 1.
    pub fn split(&self, seed: u64, share: f64) -> Result<(Self, Self)> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::invalid(format!(
                "expected a share from 0 to 1, found {share}"
            )));
        }
        let count = (self.len() as f64 * share).round() as usize;
        let mut first = vec![false; self.len()];
        let order = Rng::named(seed, "images/split").permutation(self.len());
        for &row in order.iter().take(count) {
            first[row as usize] = true;
        }
        let part = |wanted: bool| {
            let rows = self.origins().into_iter().zip(&first);
            self.view(
                rows.filter(|(_, f)| **f == wanted)
                    .map(|(r, _)| r)
                    .collect(),
            )
        };
        Ok((part(true), part(false)))
    }

    fn view(&self, rows: Vec<u32>) -> Self {
        Self {
            set: self.set.clone(),
            rows: Some(Arc::new(rows)),
        }
    }

    /// Returns the row numbers in the whole set of the images in this view.
    pub(crate) fn origins(&self) -> Vec<u32> {
        match &self.rows {
            Some(rows) => rows.to_vec(),
            None => (0..self.len() as u32).collect(),
        }
    }

    pub(super) fn origins_of(&self, rows: &[usize]) -> Result<Vec<u32>> {
        let count = self.len();
        let origin = |&row: &usize| match &self.rows {
            _ if row >= count => Err(Error::invalid(format!(
                "no row {row}: there are {count} rows, counted from 0"
            ))),
            Some(rows) => Ok(rows[row]),
            None => Ok(row as u32),
        };
        rows.iter().map(origin).collect()
    }
}

fn number_of(what: &str, name: &str, names: &[String]) -> Result<u32> {
    let number = names.iter().position(|n| n == name);
    number.map(|n| n as u32).ok_or_else(|| {
        let known: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
        Error::unknown(match known.as_slice() {
            [] => format!("no {what} {name:?}: the dataset has no {what} names"),
            known => format!("no {what} {name:?}; the names are {}", known.join(", ")),
        })
    })
}
