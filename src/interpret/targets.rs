//! [`Targets`], factors that are measured on images: attributes that a classifier predicts, colours,
//! or any numbers.

use super::Codes;
use crate::autoencoder::Autoencoder;
use crate::backbone::rows_on;
use crate::metric::{IndependentClassifier, measure_colours};
use crate::ops::host;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_core::names::nearest;

/// The number of images that are decoded and measured at once.
const BATCH: usize = 128;

/// Factors of variation that are measured on images. Each has a name and one row per image,
/// (count, components), in f64 in the computer's main memory. A colour has three components, an
/// attribute with k answers has k (one-hot).
///
/// ```
/// use invariances::prelude::*;
/// use invariances::interpret::Targets;
/// let images = Digits::strokes(32, 0)?.batch(Split::Test, 0, 4)?.images;
/// let brightness = images.flatten_from(1)?.mean(1)?;
/// let targets = Targets::colours(&images)?.with("brightness", &brightness)?;
/// assert_eq!(targets.names(), ["foreground", "background", "brightness"]);
/// assert_eq!(targets.get("brightness")?.dims(), [4, 1]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// The default has no factors and no images; [`Targets::with`] adds the first.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    factors: Vec<(String, Tensor)>,
}

impl Targets {
    /// Predicts each attribute of the images (count, 3, h, w), as one-hot rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for no images, or if they do not fit the classifier's network.
    pub fn of(independent: &IndependentClassifier, images: &Tensor) -> Result<Self> {
        let predicted = independent.names(images)?;
        let mut targets = Self::default();
        for attribute in independent.attributes() {
            let answers = attribute.answers.len().max(1);
            let predicted = predicted.get(&attribute.name);
            let predicted = predicted.map(Vec::as_slice).unwrap_or_default();
            let mut rows = vec![0f64; predicted.len() * answers];
            for (row, answer) in rows.chunks_mut(answers).zip(predicted) {
                if let Some(cell) = row.get_mut(*answer as usize) {
                    *cell = 1.0;
                }
            }
            let rows = Tensor::from_vec(rows, (predicted.len(), answers), &Device::Cpu)?;
            targets = targets.with(&attribute.name, &rows)?;
        }
        Ok(targets)
    }

    /// Measures the colours `foreground` and `background` of the images ([`measure_colours`]),
    /// each with three components in [0, 1].
    ///
    /// # Errors
    /// As [`measure_colours`].
    pub fn colours(images: &Tensor) -> Result<Self> {
        let (foreground, background) = measure_colours(images)?;
        Self::default()
            .with("foreground", &foreground)?
            .with("background", &background)
    }

    /// Decodes the first `count` images, D(z̄) with the mode z̄ of their posterior, and measures
    /// them, for example with `&Targets::colours`. 128 images are decoded at a time, so that the
    /// images are never all in memory.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no images, or for more than there are codes; [`Error::Shape`] if
    /// `measure` does not return one row per image; [`Error::Unknown`] if it does not return the
    /// same factors for all batches; and the errors of D and of `measure`.
    pub fn of_codes(
        codes: &Codes,
        autoencoder: &dyn Autoencoder,
        count: usize,
        measure: &dyn Fn(&Tensor) -> Result<Self>,
    ) -> Result<Self> {
        if count == 0 || count > codes.len() {
            return Err(Error::invalid(format!(
                "expected a number of images from 1 to {}, the number of codes, found {count}",
                codes.len()
            )));
        }
        let modes = codes.modes();
        let placement = autoencoder.placement();
        let device = placement.map_or_else(|| modes.device().clone(), |p| p.device);
        let mut parts: Vec<(String, Vec<Tensor>)> = Vec::new();
        for start in (0..count).step_by(BATCH) {
            let rows = BATCH.min(count - start);
            let images = autoencoder.images_of(&rows_on(&device, &modes, start, rows)?)?;
            let measured = measure(&images)?;
            if measured.count() != rows {
                return Err(Error::shape(format!(
                    "expected a measure with one row for each of {rows} images, found {} rows",
                    measured.count()
                )));
            }
            if start == 0 {
                let factors = measured.factors.into_iter();
                parts = factors.map(|(name, values)| (name, vec![values])).collect();
                continue;
            }
            for (name, values) in &mut parts {
                values.push(measured.get(name)?);
            }
        }
        let factors = parts
            .into_iter()
            .map(|(name, values)| Ok((name, Tensor::cat(&values, 0)?)));
        Ok(Self {
            factors: factors.collect::<Result<_>>()?,
        })
    }

    /// Adds a factor: one row per image, (count, components), or (count,) for a single component.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is a factor of this name; [`Error::Shape`] for another shape,
    /// for no rows, or if the number of rows is not that of the other factors.
    pub fn with(mut self, name: &str, values: &Tensor) -> Result<Self> {
        if self.position(name).is_some() {
            return Err(Error::invalid(format!(
                "expected factors with different names, found {name:?} twice: rename one of them \
                 with `renamed`"
            )));
        }
        let values = host(values)?;
        let values = match values.rank() {
            1 => values.unsqueeze(1)?,
            _ => values,
        };
        match values.dims() {
            &[n, components] if n > 0 && components > 0 && [0, n].contains(&self.count()) => {}
            found => {
                let count = match self.count() {
                    0 => "count".to_string(),
                    count => count.to_string(),
                };
                return Err(Error::shape(format!(
                    "expected values of shape ({count}, components) for the factor {name:?}, \
                     found {found:?}"
                )));
            }
        }
        self.factors.push((name.into(), values));
        Ok(self)
    }

    /// Adds all factors of `other`, which were measured on the same images.
    ///
    /// # Errors
    /// As [`Targets::with`].
    pub fn and(self, other: Self) -> Result<Self> {
        let mut all = self;
        for (name, values) in other.factors {
            all = all.with(&name, &values)?;
        }
        Ok(all)
    }

    /// Renames a factor.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no factor `from`; [`Error::Invalid`] if there is another
    /// factor `to`.
    pub fn renamed(mut self, from: &str, to: &str) -> Result<Self> {
        let index = self.known(from)?;
        if self.position(to).is_some_and(|other| other != index) {
            return Err(Error::invalid(format!(
                "cannot rename the factor {from:?} to {to:?}: there is another factor of this name"
            )));
        }
        if let Some((name, _)) = self.factors.get_mut(index) {
            *name = to.into();
        }
        Ok(self)
    }

    /// The factors with these names only, in this order.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist; [`Error::Invalid`] for a name that is
    /// given twice.
    pub fn select(&self, names: &[&str]) -> Result<Self> {
        let mut selected = Self::default();
        for name in names {
            selected = selected.with(name, &self.get(name)?)?;
        }
        Ok(selected)
    }

    /// The names of the factors.
    pub fn names(&self) -> Vec<String> {
        self.factors.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The values of a factor, (count, components), in f64 on the CPU.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let index = self.known(name)?;
        Ok(self.factors[index].1.clone())
    }

    /// The number of images; 0 without factors.
    pub(super) fn count(&self) -> usize {
        let first = self.factors.first();
        first
            .and_then(|(_, values)| values.dims().first().copied())
            .unwrap_or(0)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.factors.iter().position(|(n, _)| n == name)
    }

    fn known(&self, name: &str) -> Result<usize> {
        let known = self.factors.iter().map(|(name, _)| name.as_str());
        self.position(name)
            .ok_or_else(|| unknown(name, "factor", known))
    }
}

/// The error for a name that does not exist: what is known, and which name was probably meant.
pub(super) fn unknown<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.collect();
    let advice = match nearest(name, &known) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    Error::unknown(format!(
        "no {what} {name:?}: expected one of {}{advice}",
        known.join(", ")
    ))
}
