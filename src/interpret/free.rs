use crate::autoencoder::Autoencoder;
use crate::backbone::Network;
use crate::flow::Cinn;
use crate::metric::{Judge, agreement, cosines};
use crate::ops::Rng;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Images that a layer cannot tell from their originals: D(t⁻¹(v | z)) with v ~ N(0, 1), some per original.
#[derive(Clone, Debug)]
pub struct Samples {
    images: Tensor,
    per_image: usize,
}

impl Samples {
    /// Draws `per_image` samples for each representation z (batch, n) and decodes them.
    ///
    /// # Errors
    /// [`Error::Invalid`] where t or D takes another shape, or none are asked for.
    pub fn draw(
        t: &Cinn,
        autoencoder: &impl Autoencoder,
        z: &Tensor,
        per_image: usize,
        rng: &mut Rng,
    ) -> Result<Self> {
        if per_image == 0 {
            return Err(Error::invalid("0 samples per image: ask for at least one"));
        }
        Ok(Self {
            images: autoencoder.images_of(&t.sample(z, per_image, rng)?)?,
            per_image,
        })
    }

    /// Images that were made otherwise, (batch · per image, 3, h, w), those of the first original first: to measure them the same way.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless they are as many for each original.
    pub fn of(images: &Tensor, per_image: usize) -> Result<Self> {
        let count = images.dims4()?.0;
        if per_image == 0 || count == 0 || count % per_image != 0 {
            return Err(Error::invalid(format!(
                "expected {per_image} images for each original, found {count} in all"
            )));
        }
        Ok(Self {
            images: images.detach(),
            per_image,
        })
    }

    /// All samples (batch · per image, 3, h, w): those of the first original first.
    pub fn images(&self) -> Tensor {
        self.images.clone()
    }

    /// How many samples there are for each original.
    pub fn per_image(&self) -> usize {
        self.per_image
    }

    /// The samples of these originals alone, in the order asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an original that there is not, or none.
    pub fn select(&self, originals: &[u32]) -> Result<Self> {
        let (count, n) = (
            self.images.dims4()?.0 / self.per_image,
            self.per_image as u32,
        );
        if let Some(none) = originals.iter().find(|i| **i as usize >= count) {
            return Err(Error::invalid(format!(
                "there are samples of {count} originals, found one asked for with number {none}"
            )));
        }
        let rows: Vec<u32> = originals.iter().flat_map(|i| i * n..(i + 1) * n).collect();
        let rows = Tensor::new(rows, self.images.device())?;
        Self::of(&self.images.index_select(&rows, 0)?, self.per_image)
    }

    /// For each original the share of its samples in which `judge` gives to `question` the answer `wanted` (its number, one per original).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a question that the judge is not asked, or where the answers are not as many as the originals.
    pub fn shows(&self, judge: &Judge, question: &str, wanted: &[u32]) -> Result<Vec<f64>> {
        let attributes = judge.attributes();
        let asked: Vec<&str> = attributes.iter().map(|a| a.name.as_str()).collect();
        if !asked.contains(&question) {
            return Err(Error::invalid(format!(
                "the judge is not asked {question:?}, but {}",
                asked.join(", ")
            )));
        }
        let count = self.images.dims4()?.0 / self.per_image;
        if wanted.len() != count {
            return Err(Error::invalid(format!(
                "expected an answer for each of {count} originals, found {}",
                wanted.len()
            )));
        }
        let given = &judge.names(&self.images)?[question];
        let each = given.chunks(self.per_image).zip(wanted);
        Ok(each
            .map(|(given, wanted)| {
                given.iter().filter(|g| *g == wanted).count() as f64 / given.len() as f64
            })
            .collect())
    }

    /// Rows for a grid: for each original its image from each of `before` (each (batch, 3, h, w)), then its samples.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the shapes differ.
    pub fn rows(&self, before: &[Tensor]) -> Result<Tensor> {
        let (n, c, h, w) = self.images.dims4()?;
        let mut parts = Vec::new();
        for images in before {
            parts.push(images.unsqueeze(1)?);
        }
        parts.push(
            self.images
                .reshape((n / self.per_image, self.per_image, c, h, w))?,
        );
        Ok(Tensor::cat(&parts, 1)?.flatten(0, 1)?)
    }

    /// Where in [`Samples::rows`] with `before` images ahead of each row's samples `network` names another class than
    /// `labels` (u32, one per original).
    ///
    /// # Errors
    /// [`Error::Tensor`] where the labels are not as many as the originals.
    pub fn misread(
        &self,
        network: &dyn Network,
        labels: &Tensor,
        before: usize,
    ) -> Result<Vec<usize>> {
        let kept = self.kept(network, labels)?;
        let place = |n: usize| {
            (n / self.per_image) * (before + self.per_image) + before + n % self.per_image
        };
        let wrong = kept.iter().enumerate().filter(|(_, k)| **k == 0.0);
        Ok(wrong.map(|(n, _)| place(n)).collect())
    }

    /// For each original the share of its samples to which `network` gives the class `labels` (u32, one per original).
    pub fn keep_class(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let kept = self.kept(network, labels)?;
        Ok(kept
            .chunks(self.per_image)
            .map(|c| c.iter().sum::<f64>() / c.len() as f64)
            .collect())
    }

    /// For each question that `judge` answers, the share of it that z leaves free ([`free_share`]), a value per original: how often the
    /// answers on two samples of one z differ, over how often they differ on two originals. 1 where the samples of one z differ as
    /// much as images do, 0 where all get the same answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] where all originals get the same answer, or there are fewer than two samples or originals.
    pub fn free(&self, judge: &Judge, originals: &Tensor) -> Result<BTreeMap<String, Vec<f64>>> {
        let (given, all) = (judge.names(&self.images)?, judge.names(originals)?);
        let mut free = BTreeMap::new();
        for attribute in judge.attributes() {
            let answers = attribute.answers.len();
            let one_hot = |named: &[u32]| -> Result<Tensor> {
                let mut rows = vec![0f32; named.len() * answers];
                for (row, answer) in rows.chunks_mut(answers).zip(named) {
                    row[*answer as usize] = 1.0;
                }
                Ok(Tensor::from_vec(
                    rows,
                    (named.len(), answers),
                    &Device::Cpu,
                )?)
            };
            let (given, all) = (&given[&attribute.name], &all[&attribute.name]);
            let share = free_share(&one_hot(given)?, &one_hot(all)?, self.per_image);
            let share = share.map_err(|e| Error::invalid(format!("{}: {e}", attribute.name)))?;
            free.insert(attribute.name, share);
        }
        Ok(free)
    }

    /// The mean and the standard deviation of the samples of each original, pixel by pixel: (batch, 3, h, w), and (batch, h, w) over all
    /// channels together. Where the deviation is 0, z decides what is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a single sample per original.
    pub fn moments(&self) -> Result<(Tensor, Tensor)> {
        if self.per_image < 2 {
            return Err(Error::invalid(
                "a deviation needs at least two samples per image",
            ));
        }
        let (n, c, h, w) = self.images.dims4()?;
        let apart = self
            .images
            .reshape((n / self.per_image, self.per_image, c, h, w))?;
        let deviation = apart.var(1)?.mean(1)?.sqrt()?;
        Ok((apart.mean(1)?, deviation))
    }

    /// How near the samples come to the z that they were drawn for when the network looks at them again.
    ///
    /// `z` are the representations (batch, …) of the originals at `layer`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown layer, for fewer than two originals, or where z is not as many as the originals.
    pub fn reencoded(&self, network: &dyn Network, layer: &str, z: &Tensor) -> Result<Reencoded> {
        let z = z.flatten_from(1)?;
        let batch = z.dim(0)?;
        let count = self.images.dim(0)?;
        if batch < 2 || count != batch * self.per_image {
            return Err(Error::invalid(format!(
                "expected a z for each of at least two originals, found {batch} for {count} samples, {} each",
                self.per_image
            )));
        }
        let mut again = Vec::new();
        for start in (0..count).step_by(64) {
            let some = self.images.narrow(0, start, 64.min(count - start))?;
            again.push(network.encode(&some, layer)?.flatten_from(1)?.detach());
        }
        let again = Tensor::cat(&again, 0)?;
        let rows: Vec<u32> = (0..count).map(|i| (i / self.per_image) as u32).collect();
        let own = z.index_select(&Tensor::new(rows, z.device())?, 0)?;
        let mean = |values: Vec<f64>| -> Vec<f64> {
            let each = values.chunks(self.per_image);
            each.map(|v| v.iter().sum::<f64>() / v.len() as f64)
                .collect()
        };
        let others: Vec<u32> = (0..batch).map(|i| ((i + 1) % batch) as u32).collect();
        let others = z.index_select(&Tensor::new(others, z.device())?, 0)?;
        Ok(Reencoded {
            cosine: mean(cosines(&again, &own)?),
            distance: mean(distances(&again, &own)?),
            random_cosine: cosines(&others, &z)?,
            random_distance: distances(&others, &z)?,
        })
    }

    /// For each sample 1 where `network` gives it the class of its original.
    fn kept(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let repeated = labels
            .unsqueeze(1)?
            .repeat((1, self.per_image))?
            .flatten_all()?;
        let mut kept = Vec::new();
        for start in (0..self.images.dims()[0]).step_by(256) {
            let count = 256.min(self.images.dims()[0] - start);
            let classes = network.classify(&self.images.narrow(0, start, count)?)?;
            kept.extend(agreement(&classes, &repeated.narrow(0, start, count)?)?);
        }
        Ok(kept)
    }
}

/// How near samples come to their z again ([`Samples::reencoded`]): a mean over the samples for each original, and beside it the same between
/// the z of two originals that have nothing to do with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Reencoded {
    /// The cosine of Φ(sample) and z.
    pub cosine: Vec<f64>,
    /// ‖Φ(sample) − z‖.
    pub distance: Vec<f64>,
    /// The cosine of two originals' z.
    pub random_cosine: Vec<f64>,
    /// The distance of two originals' z.
    pub random_distance: Vec<f64>,
}

fn distances(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let apart = (a - b)?.sqr()?.sum(1)?.sqrt()?;
    Ok(apart.to_dtype(DType::F64)?.to_vec1()?)
}

/// The share of a factor's variance that z leaves free, one value per original: the variance of the factor
/// over the samples of one z (unbiased), over its variance across originals; summed over the factor's
/// components (three for a colour). 1 is free, 0 is fixed by z.
///
/// `of_samples` is (batch · per_image, components), `of_originals` (batch, components).
///
/// # Errors
/// [`Error::Invalid`] where the shapes do not fit or there are fewer than two samples or originals.
pub fn free_share(
    of_samples: &Tensor,
    of_originals: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    match (of_samples.dims(), of_originals.dims()) {
        (&[n, c], &[b, d]) if c == d && b >= 2 && per_image >= 2 && n == b * per_image => {}
        (s, o) => {
            return Err(Error::invalid(format!(
                "a free share needs a factor of samples (batch · {per_image}, parts) and of originals (batch, parts), at least two of each; found {s:?} and {o:?}"
            )));
        }
    }
    share_within(of_samples, of_originals, per_image)
}

/// The variance within each `per_image` rows of `of_samples` (n, parts), over that of `all` (m, parts).
pub(super) fn share_within(
    of_samples: &Tensor,
    all: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    let (n, parts) = of_samples.dims2()?;
    let within = of_samples
        .reshape((n / per_image, per_image, parts))?
        .var(1)?
        .sum(1)?;
    let total = all
        .var(0)?
        .sum_all()?
        .to_dtype(DType::F64)?
        .to_scalar::<f64>()?;
    if total <= 0.0 || !total.is_finite() {
        return Err(Error::invalid(
            "the factor does not vary over the originals: no share of its variance can be stated",
        ));
    }
    let within = within.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(within.into_iter().map(|w| w / total).collect())
}
