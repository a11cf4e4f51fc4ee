//! Adversarial attacks on a network (FGSM and PGD), and measures of their effect.

use super::Features;
use crate::backbone::{Greybox, Network, device_of, rows_on};
use crate::metric::agreement;
use crate::ops::widened as wide;
use crate::ops::{Rng, backward, values};
use crate::{Error, Result};
use candle_core::{D, Tensor, Var};
use serde::{Deserialize, Serialize};

/// The number of images that are attacked at once.
const BATCH_SIZE: usize = 64;

/// An adversarial attack that changes every pixel value by at most `epsilon`, so that the
/// network's prediction becomes wrong. With one step it is the fast gradient sign method
/// (Goodfellow et al. 2015, [arXiv 1412.6572](https://arxiv.org/abs/1412.6572)), x + ε·sign ∇ₓ
/// L(f(x), y). With several steps it is projected gradient descent (Madry et al. 2018,
/// [arXiv 1706.06083](https://arxiv.org/abs/1706.06083)) with a step size of 2.5·ε/steps and a
/// random start.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::backbone::squeezenet_small;
/// use invariances::interpret::Attack;
/// let network = squeezenet_small(10, &Params::new(0).root())?.frozen()?;
/// let digits = Digits::strokes(32, 0)?.batch(Split::Test, 0, 4)?;
/// let attacked = Attack::fgsm(0.05).against(&network, &digits.images, &digits.labels, &mut Rng::new(0))?;
/// let largest = attacked.perturbation()?.abs()?.max_all()?.to_scalar::<f32>()?;
/// assert!(largest <= 0.0501);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    /// The largest change of a pixel value in [−1, 1]. One step of an 8-bit image is 2/255.
    pub epsilon: f64,
    /// The number of steps; one step is the fast gradient sign method.
    pub steps: usize,
}

/// Images before and after an attack.
#[derive(Clone, Debug)]
pub struct Attacked {
    /// The original images, (batch, 3, h, w).
    pub originals: Tensor,
    /// The attacked images, in [−1, 1].
    pub images: Tensor,
}

impl Attack {
    /// The fast gradient sign method.
    pub fn fgsm(epsilon: f64) -> Self {
        Self { epsilon, steps: 1 }
    }

    /// Projected gradient descent.
    pub fn pgd(epsilon: f64, steps: usize) -> Self {
        Self { epsilon, steps }
    }

    fn check(&self, images: &Tensor) -> Result<()> {
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) || self.steps == 0 {
            return Err(Error::invalid(format!(
                "expected an epsilon of at least 0 and at least one step, found {self:?}"
            )));
        }
        match images.dims() {
            [n, _, _, _] if *n > 0 => Ok(()),
            other => Err(Error::shape(format!(
                "expected images of shape (batch, 3, h, w), found {other:?}"
            ))),
        }
    }

    /// Attacks a network's classification of images with `labels`, u32 (batch,). Use a frozen
    /// network ([`Backbone::frozen`](crate::backbone::Backbone::frozen)): then no gradient of its
    /// parameters is computed. The random generator is used only with more than one step. The
    /// result is on the network's device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid epsilon or no step; [`Error::Shape`] for no image, or if
    /// the numbers of labels and images differ; [`Error::Unsupported`] if no gradient passes
    /// through the network.
    pub fn against(
        &self,
        network: &dyn Network,
        images: &Tensor,
        labels: &Tensor,
        rng: &mut Rng,
    ) -> Result<Attacked> {
        self.check(images)?;
        let count = images.dims()[0];
        if labels.dims() != [count] {
            return Err(Error::shape(format!(
                "expected labels of shape ({count},), one for each image, found {:?}",
                labels.dims()
            )));
        }
        if let Some(why) = network.no_gradient() {
            return Err(Error::unsupported(format!(
                "{} cannot be attacked, because no gradient passes through it: {why}",
                network.name()
            )));
        }
        let originals = images.detach().to_device(&device_of(network, images))?;
        let mut attacked = Vec::new();
        for start in (0..count).step_by(BATCH_SIZE) {
            let n = BATCH_SIZE.min(count - start);
            let x = originals.narrow(0, start, n)?;
            attacked.push(self.attack_batch(network, &x, &labels.narrow(0, start, n)?, rng)?);
        }
        Ok(Attacked {
            images: Tensor::cat(&attacked, 0)?,
            originals,
        })
    }

    fn attack_batch(
        &self,
        network: &dyn Network,
        x: &Tensor,
        labels: &Tensor,
        rng: &mut Rng,
    ) -> Result<Tensor> {
        let (low, high) = ((x - self.epsilon)?, (x + self.epsilon)?);
        let projected = |y: Tensor| -> Result<Tensor> {
            Ok(y.maximum(&low)?.minimum(&high)?.clamp(-1f32, 1f32)?)
        };
        let mut at = x.clone();
        let mut step = self.epsilon;
        if self.steps > 1 {
            step = 2.5 * self.epsilon / self.steps as f64;
            let start = rng.uniform(-1.0, 1.0, x.shape(), x.device())?;
            at = projected((x + (start.to_dtype(x.dtype())? * self.epsilon)?)?)?;
        }
        for _ in 0..self.steps {
            let var = Var::from_tensor(&at)?;
            let logits = network.forward(&var)?;
            let labels = labels.to_device(logits.device())?;
            // Multiplied by the number of images (a sum instead of a mean), so that each image is
            // attacked independently of the others.
            let loss = candle_nn::loss::cross_entropy(&wide(&logits)?, &labels)?;
            let mut gradients = backward(&(loss * x.dims()[0] as f64)?)?;
            let gradient = gradients.remove(&var).ok_or_else(|| {
                Error::unsupported(format!(
                    "no gradient with respect to the image passes through {}",
                    network.name()
                ))
            })?;
            at = projected((&at + (gradient.sign()? * step)?)?)?;
        }
        Ok(at.detach())
    }

    /// A control: noise of the same size as the attack, +ε or −ε at random for each pixel value.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid epsilon or no step; [`Error::Shape`] for no image.
    pub fn noise(&self, images: &Tensor, rng: &mut Rng) -> Result<Attacked> {
        self.check(images)?;
        let originals = images.detach();
        let signs = rng
            .uniform(-1.0, 1.0, images.shape(), images.device())?
            .sign()?;
        let noisy = (&originals + (signs.to_dtype(images.dtype())? * self.epsilon)?)?;
        Ok(Attacked {
            images: noisy.clamp(-1f32, 1f32)?,
            originals,
        })
    }
}

impl Attacked {
    /// The change that was added, (batch, 3, h, w).
    ///
    /// # Errors
    /// [`Error::Tensor`] if the two have different shapes.
    pub fn perturbation(&self) -> Result<Tensor> {
        Ok((&self.images - &self.originals)?)
    }

    /// For each image that the network classifies correctly: 1 if the attacked image is
    /// classified wrongly, else 0. Images that are classified wrongly before the attack are left
    /// out.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of labels and images differ.
    pub fn succeeded(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let both = self.right(network, labels)?.into_iter();
        let right_before = both.filter(|(before, _)| *before > 0.0);
        Ok(right_before.map(|(_, after)| 1.0 - after).collect())
    }

    /// The indices of the images that the network classifies correctly before the attack and
    /// wrongly after it.
    ///
    /// # Errors
    /// As [`Attacked::succeeded`].
    pub fn fooled(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<u32>> {
        let both = self.right(network, labels)?.into_iter().zip(0u32..);
        let fooled = both.filter(|((before, after), _)| *before > 0.0 && *after == 0.0);
        Ok(fooled.map(|(_, i)| i).collect())
    }

    /// Whether each image is classified correctly (1 or 0): before and after the attack.
    fn right(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<(f64, f64)>> {
        let right = |images: &Tensor| -> Result<Vec<f64>> {
            let mut right = Vec::new();
            let count = images.dims()[0];
            let device = device_of(network, images);
            for start in (0..count).step_by(BATCH_SIZE) {
                let n = BATCH_SIZE.min(count - start);
                let predicted = network.classify(&rows_on(&device, images, start, n)?)?;
                right.extend(agreement(&predicted, &labels.narrow(0, start, n)?)?);
            }
            Ok(right)
        };
        let (before, after) = (right(&self.originals)?, right(&self.images)?);
        Ok(before.into_iter().zip(after).collect())
    }

    /// How far the change has spread at each layer ([`Network::at_each`]): ‖Φ(x′) − Φ(x)‖ for each
    /// image, divided by the mean of ‖Φ(a) − Φ(b)‖ for two originals. The value is 1 if an attacked
    /// image is as far from its original as two different images are from each other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two images or no layers; [`Error::Shape`] if the images
    /// do not fit the network.
    pub fn spread(&self, greyboxes: &[Greybox]) -> Result<Vec<Vec<f64>>> {
        let count = self.originals.dims()[0];
        if count < 2 {
            return Err(Error::invalid(format!(
                "expected at least two images, found {count}: the spread is relative to the distance between two images"
            )));
        }
        let before = Features::of(greyboxes, &self.originals)?;
        let after = Features::of(greyboxes, &self.images)?;
        let distance = |a: &Tensor, b: &Tensor| -> Result<Vec<f64>> {
            values(&(wide(a)? - wide(b)?)?.sqr()?.sum(D::Minus1)?.sqrt()?)
        };
        let each = greyboxes.iter().map(|greybox| {
            let layer = greybox.layer();
            let (a, b) = (before.at(&layer)?, after.at(&layer)?);
            // Each original is compared with the next one.
            let next = Tensor::cat(&[a.narrow(0, 1, count - 1)?, a.narrow(0, 0, 1)?], 0)?;
            let others = distance(&a, &next)?;
            let unit = others.iter().sum::<f64>() / others.len() as f64;
            Ok(distance(&a, &b)?.iter().map(|d| d / unit).collect())
        });
        each.collect()
    }
}
