//! Perceptual distances between images, and the paper's VAE loss, which uses one.

use super::Lpips;
use crate::autoencoder::Posterior;
use crate::backbone::Network;
use crate::ops::Placement;
use crate::ops::widened as wide;
use crate::{Error, Result};
use candle_core::Tensor;
use std::fmt;
use std::sync::Arc;

/// A perceptual distance between images, from the features of a network that has no other role in
/// the experiment.
pub trait PerceptualDistance {
    /// Returns a description of the distance: published LPIPS weights, or a substitute.
    fn name(&self) -> String;

    /// Computes the distance of each pair of images (batch, 3, h, w) in [−1, 1]; the result is
    /// (batch,), with a gradient for both images. It is on the device of the network whose
    /// features are compared.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ or do not fit the network.
    fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
}

impl PerceptualDistance for Lpips {
    fn name(&self) -> String {
        "LPIPS by VGG-16".into()
    }

    fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Lpips::distance(self, a, b)
    }
}

/// A distance with the structure of LPIPS for any network, without weights fitted to human
/// judgements.
///
/// At each layer, the feature vector of every position is divided by its length. The squared
/// differences are summed over channels and averaged over positions and layers. Use it for
/// synthetic datasets that have their own network; never use the network under study.
///
/// ```
/// use invariances::{backbone::plain_small, candle_core::Device, ops::{Params, Rng}};
/// use invariances::loss::{FeatureDistance, PerceptualDistance};
/// let network = plain_small(10, &Params::new(0).root())?.frozen()?;
/// let distance = FeatureDistance::new(&network, &["conv2", "conv4"])?;
/// let x = Rng::new(1).normal((2, 3, 32, 32), &Device::Cpu)?;
/// assert_eq!(distance.distance(&x, &x)?.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct FeatureDistance {
    network: Arc<dyn Network>,
    layers: Vec<String>,
}

impl fmt::Debug for FeatureDistance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FeatureDistance({} at {})",
            self.network.name(),
            self.layers.join(", ")
        )
    }
}

impl FeatureDistance {
    /// Creates the distance from the named layers of a network.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown layer; [`Error::Invalid`] for no layers;
    /// [`Error::Unsupported`] for a network without gradients.
    pub fn new(network: &(impl Network + Clone + 'static), layers: &[&str]) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::invalid(
                "expected at least one layer for a feature distance, found none",
            ));
        }
        if let Some(why) = network.no_gradient() {
            return Err(Error::unsupported(format!(
                "the features of {} have no gradient: {why}",
                network.name()
            )));
        }
        for layer in layers {
            network.position(layer)?;
        }
        Ok(Self {
            network: Arc::new(network.clone()),
            layers: layers.iter().map(ToString::to_string).collect(),
        })
    }
}

impl PerceptualDistance for FeatureDistance {
    fn name(&self) -> String {
        format!(
            "features of {} at {}, trained for this alone (not LPIPS)",
            self.network.name(),
            self.layers.join(", ")
        )
    }

    fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.dims() != b.dims() {
            return Err(Error::shape(format!(
                "expected images of the same shape, found {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        let layers: Vec<&str> = self.layers.iter().map(String::as_str).collect();
        let a = a.to_device(b.device())?;
        let (fa, fb) = (
            self.network.encode_all(&a, &layers)?,
            self.network.encode_all(b, &layers)?,
        );
        let unit = |z: &Tensor| -> Result<Tensor> {
            let z = wide(z)?;
            // 1e-10 is inside the root, so that the gradient at 0 is finite.
            let length = (z.sqr()?.sum_keepdim(1)? + 1e-10)?.sqrt()?;
            Ok(z.broadcast_div(&length)?)
        };
        let parts = fa.iter().zip(&fb).map(|(a, b)| {
            let differences = (unit(a)? - unit(b)?)?.sqr()?.sum(1)?;
            Ok(match differences.rank() {
                1 => differences,
                _ => differences.flatten_from(1)?.mean(1)?,
            })
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok((Tensor::stack(&parts, 0)?.sum(0)? / self.layers.len() as f64)?)
    }
}

/// The terms of the paper's VAE loss, each averaged over the batch.
#[derive(Clone, Debug)]
pub struct PerceptualVaeLoss {
    /// The loss to minimise without the adversarial term, a scalar in nats per image: likelihood
    /// and KL divergence.
    pub loss: Tensor,
    /// The likelihood term. Its gradient determines the weight of the adversarial loss (see
    /// [`super::adversarial_weight`]).
    pub nll: Tensor,
    /// Mean absolute error per pixel and channel, a scalar, for images in [−1, 1].
    pub l1: Tensor,
    /// The perceptual distance, a scalar; 0 if no distance is given.
    pub perceptual: Tensor,
    /// KL divergence in nats per image, a scalar.
    pub kl: Tensor,
}

/// Computes the paper's VAE loss without the adversarial term (arXiv 2008.01777).
///
/// The loss is (|x − x̂| + distance)/exp(γ) + γ, summed over pixels and channels, plus the KL
/// divergence times `kl_weight`. The distance and the learned scalar γ are broadcast over all
/// pixels and channels. The terms are on the device of `decoded`, and in f32 if it has half
/// precision.
///
/// # Errors
/// [`Error::Shape`] if the shapes of the images differ.
pub fn perceptual_vae_loss(
    (x, decoded): (&Tensor, &Tensor),
    posterior: &Posterior,
    gamma: &Tensor,
    distance: Option<&dyn PerceptualDistance>,
    kl_weight: f64,
) -> Result<PerceptualVaeLoss> {
    if x.dims() != decoded.dims() || x.rank() != 4 || x.elem_count() == 0 {
        return Err(Error::shape(format!(
            "expected images and reconstructions of the same shape (batch, channels, h, w), found \
             {:?} and {:?}",
            x.dims(),
            decoded.dims()
        )));
    }
    let elements = (x.elem_count() / x.dims()[0]) as f64;
    let wide_decoded = wide(decoded)?;
    let at = Placement::of(&wide_decoded);
    let l1 = (at.take(x)? - &wide_decoded)?.abs()?.mean_all()?;
    let perceptual = match distance {
        Some(distance) => at.take(&distance.distance(x, decoded)?.mean_all()?)?,
        None => l1.zeros_like()?,
    };
    let gamma = at.take(&gamma.reshape(())?)?;
    let per_element = ((&l1 + &perceptual)? / gamma.exp()?)?;
    let nll = ((per_element + &gamma)? * elements)?;
    let kl = at.take(&posterior.kl()?.mean_all()?)?;
    Ok(PerceptualVaeLoss {
        loss: (&nll + (&kl * kl_weight)?)?,
        nll,
        l1,
        perceptual,
        kl,
    })
}
