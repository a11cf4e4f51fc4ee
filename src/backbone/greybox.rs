//! [`Greybox`], a network that is split at one layer into Φ and Ψ.

use super::gradients::while_checking;
use super::network::{device_of, placed, rows_on};
use super::{LayerInfo, Network, Preprocess};
use crate::ops::{Placement, Rng, backward, host, scalar};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The part of a layer's output that is used as z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// The whole output.
    #[default]
    None,
    /// The class token: the first token of a transformer's output (batch, tokens, width).
    ClassToken,
    /// The mean over all positions: pixels of a map, or tokens.
    Mean,
}

/// The number of images that a network processes at once.
const BATCH_SIZE: usize = 64;

/// A network split at a named layer, f = Ψ∘Φ. z = Φ(x) is the representation of an image at that
/// layer, and Ψ is the rest of the network. [`Network::at`] makes one: `network.at("fc6")?`.
///
/// A clone shares the network. The type has a name, so a variable of it can be kept between
/// notebook cells.
///
/// ```
/// use invariances::{backbone::{Network, Pooling, squeezenet_small}, ops::{Params, Rng}};
/// let params = Params::new(0);
/// let network = squeezenet_small(10, &params.root())?;
/// let x = Rng::new(1).normal((2, 3, 32, 32), params.device())?;
/// let pool = network.at("pool")?;
/// let fire4 = pool.at("fire4")?.with_pooling(Pooling::Mean);
/// assert_eq!(fire4.encode(&x)?.dims(), [2, 128]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Greybox {
    network: Arc<dyn Network>,
    layer: String,
    at: usize,
    pooling: Pooling,
}

shows_outline!(Greybox);

impl Greybox {
    /// Splits a network at a layer, given by its published name or the paper's name. Same as
    /// [`Network::at`].
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer, with the existing names; [`Error::Invalid`] if two
    /// layers have the same name.
    pub fn new(network: &(impl Network + Clone + 'static), layer: &str) -> Result<Self> {
        Self::shared(Arc::new(network.clone()), layer)
    }

    /// Same as [`Greybox::new`], for a network that is already shared or cannot be cloned.
    ///
    /// # Errors
    /// As [`Greybox::new`].
    pub fn shared(network: Arc<dyn Network>, layer: &str) -> Result<Self> {
        let layers = network.layers();
        for (i, name) in layers.iter().enumerate() {
            if layers[..i].contains(name) {
                return Err(Error::invalid(format!(
                    "expected unique layer names in {}, found two layers {name:?}: rename one of \
                     them",
                    network.name()
                )));
            }
        }
        Ok(Self {
            at: network.position(layer)?,
            layer: layer.into(),
            network,
            pooling: Pooling::None,
        })
    }

    /// Returns the same network, split at another layer, with the same pooling.
    ///
    /// # Errors
    /// As [`Greybox::new`].
    pub fn at(&self, layer: &str) -> Result<Self> {
        Ok(Self {
            pooling: self.pooling,
            ..Self::shared(self.network.clone(), layer)?
        })
    }

    /// Returns a greybox whose z is a part of the layer's output. Ψ cannot be computed from such
    /// a z.
    pub fn with_pooling(&self, pooling: Pooling) -> Self {
        Self {
            pooling,
            ..self.clone()
        }
    }

    /// The layer's name, as given to [`Greybox::new`] or [`Greybox::at`].
    pub fn layer(&self) -> String {
        self.layer.clone()
    }

    /// The network.
    pub fn network(&self) -> Arc<dyn Network> {
        self.network.clone()
    }

    /// Describes the network's layers, with a mark after the layer at which it is split.
    pub fn outline(&self) -> Outline {
        let pooling = match self.pooling {
            Pooling::None => "",
            Pooling::ClassToken => ", class token",
            Pooling::Mean => ", mean over all positions",
        };
        let title = format!("{}, split at {}", self.network.name(), self.layer);
        let mark = format!("──── z = Φ(x){pooling} ────");
        self.network.outline().marked(title, self.at + 1, &mark)
    }

    /// The device and the number type of the network's parameters, as [`Network::placement`].
    pub fn placement(&self) -> Option<Placement> {
        self.network.placement()
    }

    /// The network's input: images on its device, resized and normalized.
    fn prepared(&self, images: &Tensor) -> Result<Tensor> {
        let images = placed(self.network.as_ref(), images)?;
        self.network.preprocess().apply(&images)
    }

    /// An identifier for the cache of trained networks: network, layer, pooling and
    /// preprocessing.
    pub fn id(&self) -> String {
        let layer = self.network.layers().get(self.at).cloned();
        let prepared: Preprocess = self.network.preprocess();
        format!(
            "{} {} {:?} {prepared:?}",
            self.network.name(),
            layer.unwrap_or_default(),
            self.pooling
        )
    }

    /// z = Φ(x) for images (batch, 3, h, w) in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the network, or if the layer's output does not fit
    /// the pooling.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.prepared(images)?;
        self.pool(self.network.run(&x, 0..self.at + 1)?)
    }

    /// z of each greybox for the same images, in the order of `greyboxes`. Greyboxes that share
    /// their network ([`Network::at_each`], [`Greybox::at`]) are evaluated in one pass.
    ///
    /// # Errors
    /// As [`Greybox::encode`].
    pub fn encode_all(greyboxes: &[Self], images: &Tensor) -> Result<Vec<Tensor>> {
        let mut found: Vec<(usize, Tensor)> = Vec::new();
        for (first, greybox) in greyboxes.iter().enumerate() {
            let shares = |other: &Self| Arc::ptr_eq(&other.network, &greybox.network);
            if greyboxes[..first].iter().any(shares) {
                continue;
            }
            let all = greyboxes.iter().enumerate();
            let same: Vec<(usize, &Self)> = all.filter(|(_, other)| shares(other)).collect();
            let layers: Vec<&str> = same.iter().map(|(_, g)| g.layer.as_str()).collect();
            let outputs = greybox.network.encode_all(images, &layers)?;
            for ((index, greybox), z) in same.into_iter().zip(outputs) {
                found.push((index, greybox.pool(z)?));
            }
        }
        found.sort_by_key(|(index, _)| *index);
        Ok(found.into_iter().map(|(_, z)| z).collect())
    }

    /// z of any number of images, flattened to (n, f), without a graph. The network processes 64
    /// images at a time. The result is on the network's device.
    ///
    /// # Errors
    /// As [`Greybox::encode`]; [`Error::Shape`] for no images.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let all = Self::features_all(std::slice::from_ref(self), images)?;
        let first = all.into_iter().next();
        first.ok_or_else(|| Error::invalid("expected one output of the layer, found 0"))
    }

    /// [`Greybox::features`] of each greybox, in one pass.
    pub(crate) fn features_all(greyboxes: &[Self], images: &Tensor) -> Result<Vec<Tensor>> {
        let count = images.dims().first().copied().unwrap_or(0);
        let Some(first) = greyboxes.first() else {
            return Err(Error::invalid("expected at least one layer, found 0"));
        };
        if count == 0 {
            return Err(Error::shape(format!(
                "expected at least one image of shape (n, 3, h, w), found {:?}",
                images.dims()
            )));
        }
        let mut parts: Vec<Vec<Tensor>> = vec![Vec::new(); greyboxes.len()];
        let device = device_of(first.network.as_ref(), images);
        for start in (0..count).step_by(BATCH_SIZE) {
            let batch = rows_on(&device, images, start, BATCH_SIZE.min(count - start))?;
            let found = Self::encode_all(greyboxes, &batch.detach())?;
            for (parts, z) in parts.iter_mut().zip(found) {
                parts.push(z.detach().flatten_from(1)?);
            }
        }
        parts.iter().map(|p| Ok(Tensor::cat(p, 0)?)).collect()
    }

    /// The part of a layer's output that is used as z.
    fn pool(&self, z: Tensor) -> Result<Tensor> {
        let wrong = |expected: &str| {
            Error::shape(format!(
                "expected {expected} for the pooling {:?}, found shape {:?} at layer {}",
                self.pooling,
                z.dims(),
                self.layer
            ))
        };
        Ok(match (self.pooling, z.rank()) {
            (Pooling::None, _) => z,
            (Pooling::ClassToken, 3) => z.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?,
            (Pooling::Mean, 3) => z.mean(1)?,
            (Pooling::Mean, 4) => z.flatten_from(2)?.mean(2)?,
            (Pooling::ClassToken, _) => {
                return Err(wrong("tokens of shape (batch, tokens, width)"));
            }
            (Pooling::Mean, _) => return Err(wrong("tokens or maps")),
        })
    }

    /// Ψ(z): the output f(x), computed from z. For a layer after the output (a softmax), this is
    /// z itself.
    ///
    /// # Errors
    /// [`Error::Shape`] if z is not the layer's output; [`Error::Unsupported`] if it is only a part
    /// of it.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        if self.pooling != Pooling::None {
            return Err(Error::unsupported(format!(
                "there is no Ψ for a part of a layer's output: use layer {} without the pooling \
                 {:?}",
                self.layer, self.pooling
            )));
        }
        let end = self.network.output().max(self.at);
        let z = placed(self.network.as_ref(), z)?;
        self.network.run(&z, self.at + 1..end + 1)
    }

    /// f(x) = Ψ(Φ(x)): the network's output. For a layer after the output, it is the output of
    /// that layer.
    ///
    /// # Errors
    /// As [`Greybox::encode`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.prepared(images)?;
        self.network
            .run(&x, 0..self.network.output().max(self.at) + 1)
    }

    /// The shape of z for one image, without running the network. The image has the network's
    /// input size, or `size` × `size` pixels if the network accepts any size.
    ///
    /// # Errors
    /// [`Error::Shape`] if the network cannot process images of this size.
    pub fn shape(&self, size: usize) -> Result<Vec<usize>> {
        let described = self.network.describe(size)?;
        let shape = described.get(self.at).map(|l: &LayerInfo| l.shape.clone());
        let shape = shape.unwrap_or_default();
        Ok(match (self.pooling, &shape[..]) {
            (Pooling::None, _) => shape,
            (Pooling::Mean, [channels, _, _]) => vec![*channels],
            (Pooling::ClassToken | Pooling::Mean, [_, width]) => vec![*width],
            _ => {
                return Err(Error::shape(format!(
                    "the pooling {:?} does not fit the output of shape {shape:?} at layer {}",
                    self.pooling, self.layer
                )));
            }
        })
    }

    /// The gradient of `objective`(z), a scalar, with respect to the images: (batch, 3, h, w),
    /// on the device and with the number type of the images.
    ///
    /// # Errors
    /// [`Error::Shape`] if the objective is not a scalar; [`Error::Unsupported`] if no gradient
    /// passes through the network.
    pub fn gradient<F>(&self, images: &Tensor, objective: F) -> Result<Tensor>
    where
        F: Fn(&Tensor) -> candle_core::Result<Tensor>,
    {
        let no_gradient = |why: &str| {
            Error::unsupported(format!(
                "no gradient with respect to the images passes through {}: {why}",
                self.network.name()
            ))
        };
        if let Some(why) = self.network.no_gradient() {
            return Err(no_gradient(&why));
        }
        let x = Var::from_tensor(&images.detach())?;
        let value = objective(&self.encode(&x)?)?;
        if value.elem_count() != 1 {
            return Err(Error::shape(format!(
                "expected a scalar objective, found shape {:?}: sum it over the batch",
                value.dims()
            )));
        }
        let mut gradients = backward(&value.flatten_all()?.sum_all()?)?;
        gradients.remove(&x).ok_or_else(|| {
            no_gradient("the objective or a layer does not depend on them, or has no backward pass")
        })
    }

    /// The relative error of the gradient: |g·d − Δ|/(|g·d| + |Δ|). Here Δ is the change of a
    /// randomly weighted sum of z along a step d of the image. The direction of d is half along
    /// the gradient and half random. The result is the best over four step lengths, because kinks
    /// disturb long steps and rounding disturbs short ones. A little noise is first added to the
    /// images: in flat regions max pooling has ties, and at a tie there is no derivative to
    /// compare with. The result is near 0 if all layers have correct gradients. For your own
    /// network, check this before you attack or invert it.
    ///
    /// [`Network::check_gradients`] compares along several random directions instead, and names
    /// the layer.
    ///
    /// # Errors
    /// As [`Greybox::gradient`].
    pub fn check_gradient(&self, images: &Tensor) -> Result<f64> {
        // This function returns the error as a number. The check of the first gradient of a
        // `Custom` would return an `Err` instead.
        while_checking(|| self.gradient_error(images))
    }

    fn gradient_error(&self, images: &Tensor) -> Result<f64> {
        let mut rng = Rng::named(0, "check gradient");
        let perturbation = (rng.normal(images.shape(), images.device())? * 0.03)?;
        let images = (images.detach() + perturbation.to_dtype(images.dtype())?)?;
        let z = self.encode(&images)?;
        let weights = rng.normal(z.shape(), z.device())?.to_dtype(z.dtype())?;
        let noise = rng.normal(images.shape(), images.device())?;
        let gradient = self.gradient(&images, |z| (z * &weights)?.sum_all())?;
        let sum = |t: &Tensor| -> Result<f64> { scalar(&host(t)?.sum_all()?) };
        let size = (sum(&gradient.sqr()?)? / gradient.elem_count() as f64).sqrt();
        let along = (&gradient / size.max(f64::MIN_POSITIVE.sqrt()))?;
        let direction = (along + noise.to_dtype(images.dtype())?)?;
        let expected = sum(&(gradient * &direction)?)?;
        let value = |by: f64| -> Result<f64> {
            let z = self.encode(&(&images + (&direction * by)?)?)?;
            // Summed in f64, because two nearly equal sums are subtracted.
            sum(&(host(&z)? * host(&weights)?)?)
        };
        let mut best = f64::INFINITY;
        for step in [3e-3, 1e-3, 3e-4, 1e-4] {
            let change = (value(step)? - value(-step)?) / (2.0 * step);
            let difference = (expected - change).abs();
            let scale = (expected.abs() + change.abs()).max(f64::MIN_POSITIVE);
            best = best.min(difference / scale);
        }
        Ok(best)
    }
}
