//! [`Features`], the outputs of several layers for a set of images, and nearest neighbours by
//! them.

use crate::backbone::Greybox;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use invariances_core::names::nearest;

/// The outputs of several layers for a set of images, flattened to (n, f), without a graph. For a
/// single layer, [`Greybox::features`] is enough.
///
/// ```
/// use invariances::{backbone::{Network, squeezenet_small}, data::{Digits, Split, Dataset}, interpret::Features, ops::Params};
/// let network = squeezenet_small(10, &Params::new(0).root())?;
/// let digits = Digits::strokes(32, 0)?.batch(Split::Test, 0, 20)?;
/// let features = Features::of(&network.at_each(&["conv1", "pool"])?, &digits.images)?;
/// assert_eq!(features.at("pool")?.dims(), [20, 128]);
/// let similar = features.nearest("pool", &[0], 3)?; // the three most similar to image 0
/// assert_eq!(similar[0].len(), 3);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Features {
    layers: Vec<String>,
    each: Vec<Tensor>,
}

impl Features {
    /// Computes the output of each greybox for images (n, 3, h, w) in [−1, 1]. Layers of one
    /// network are computed in one pass ([`Greybox::encode_all`]). All of them are kept in the
    /// memory of the network's device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no layers, or for two with the same name; [`Error::Shape`] for no
    /// images, or if they do not fit the network.
    pub fn of(greyboxes: &[Greybox], images: &Tensor) -> Result<Self> {
        let layers: Vec<String> = greyboxes.iter().map(Greybox::layer).collect();
        for (i, layer) in layers.iter().enumerate() {
            if layers[..i].contains(layer) {
                return Err(Error::invalid(format!(
                    "expected layers with different names, found {layer:?} twice: compute the \
                     features of each network separately"
                )));
            }
        }
        Ok(Self {
            layers,
            each: Greybox::features_all(greyboxes, images)?,
        })
    }

    /// The layers' names, as in [`Features::of`].
    pub fn layers(&self) -> Vec<String> {
        self.layers.clone()
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.each
            .first()
            .and_then(|z| z.dims().first().copied())
            .unwrap_or(0)
    }

    /// Whether there are no images; always false for features from [`Features::of`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The output of a layer, (n, f).
    ///
    /// # Errors
    /// [`Error::Unknown`] for a layer whose output was not computed.
    pub fn at(&self, layer: &str) -> Result<Tensor> {
        let found = self.layers.iter().position(|l| l == layer);
        let known: Vec<&str> = self.layers.iter().map(String::as_str).collect();
        found.map(|i| self.each[i].clone()).ok_or_else(|| {
            let advice = match nearest(layer, &known) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            };
            Error::unknown(format!(
                "no features of layer {layer:?}: expected one of {}{advice}",
                known.join(", ")
            ))
        })
    }

    /// For each image in `rows`, the `count` other images that are most similar at a layer, the
    /// most similar first. The similarity is the cosine of the features after subtracting their
    /// mean over all images.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a layer whose output was not computed; [`Error::Invalid`] for the
    /// index of an image that does not exist.
    pub fn nearest(&self, layer: &str, rows: &[usize], count: usize) -> Result<Vec<Vec<usize>>> {
        if let Some(row) = rows.iter().find(|r| **r >= self.len()) {
            return Err(Error::invalid(format!(
                "no image {row}: expected an index below {}, the number of images",
                self.len()
            )));
        }
        // The order is found in f32 on the CPU, whatever the network's device and number type.
        let z = self
            .at(layer)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?;
        let centred = z.broadcast_sub(&z.mean_keepdim(0)?)?;
        let length = (centred.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-12)?;
        let unit = centred.broadcast_div(&length)?;
        let chosen: Vec<u32> = rows.iter().map(|r| *r as u32).collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let queries = unit.index_select(&Tensor::new(chosen, unit.device())?, 0)?;
        let cosine = queries.matmul(&unit.t()?)?.to_vec2::<f32>()?;
        let order = rows.iter().zip(cosine).map(|(row, cosine)| {
            let mut others: Vec<usize> = (0..cosine.len()).filter(|i| i != row).collect();
            others.sort_by(|a, b| cosine[*b].total_cmp(&cosine[*a]).then(a.cmp(b)));
            others.truncate(count);
            others
        });
        Ok(order.collect())
    }

    /// For each of the first `images` images, the mean of `of`(image, neighbour) over its `count`
    /// nearest neighbours. If `of` is 1 when both images show the same thing and 0 otherwise, the
    /// result is the share of neighbours that show the same thing.
    ///
    /// ```
    /// use invariances::{backbone::{Network, squeezenet_small}, data::{Digits, Split, Dataset}, interpret::Features, ops::Params};
    /// let network = squeezenet_small(10, &Params::new(0).root())?;
    /// let digits = Digits::strokes(32, 0)?.batch(Split::Test, 0, 50)?;
    /// let features = Features::of(&[network.at("pool")?], &digits.images)?;
    /// let digit = digits.labels.to_vec1::<u32>()?;
    /// let share = features.among_nearest("pool", 20, 5, |i, j| f64::from(digit[i] == digit[j]))?;
    /// assert_eq!(share.len(), 20);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Features::nearest`], and [`Error::Invalid`] if `count` is 0 or there are fewer than
    /// two images.
    pub fn among_nearest(
        &self,
        layer: &str,
        images: usize,
        count: usize,
        of: impl Fn(usize, usize) -> f64,
    ) -> Result<Vec<f64>> {
        if count == 0 || self.len() < 2 {
            return Err(Error::invalid(format!(
                "expected at least one neighbour and at least two images, found {count} neighbours and {} images",
                self.len()
            )));
        }
        let rows: Vec<usize> = (0..images.min(self.len())).collect();
        let near = self.nearest(layer, &rows, count)?;
        let mean = |(i, near): (&usize, &Vec<usize>)| {
            near.iter().map(|j| of(*i, *j)).sum::<f64>() / near.len() as f64
        };
        Ok(rows.iter().zip(&near).map(mean).collect())
    }
}
