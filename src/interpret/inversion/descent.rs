//! Inversion of a representation by gradient descent on the image.

use crate::backbone::{Greybox, rows_on};
use crate::ops::widened as wide;
use crate::ops::{Placement, Rng, backward, scalar, values};
use crate::train::Adam;
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

/// The number of images that are inverted at once.
const BATCH_SIZE: usize = 64;

/// Inversion by gradient descent on the image (Mahendran, Vedaldi 2015,
/// [arXiv 1412.0035](https://arxiv.org/abs/1412.0035)). It finds the image x that minimizes
/// ‖Φ(x) − z‖² / ‖z‖². Two priors are added: small pixel values (the mean of |x|⁶) and similar
/// neighbouring pixels (the mean of their squared differences, total variation with β = 2). Each
/// z is started from several noise images. The result with the smallest error is used.
///
/// The original uses gradient descent with momentum and a manually lowered learning rate. This
/// implementation uses [`Adam`] with a learning rate that follows half a cosine.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::backbone::squeezenet_small;
/// use invariances::interpret::Descent;
/// let network = squeezenet_small(10, &Params::new(0).root())?.frozen()?;
/// let digits = Digits::strokes(32, 0)?.batch(Split::Test, 0, 2)?;
/// let pool = network.at("pool")?;
/// let config = Descent { steps: 3, starts: 2, ..Default::default() };
/// let inverted = config.invert(&pool, &pool.encode(&digits.images)?, 32, &mut Rng::new(0))?;
/// assert_eq!(inverted.images.dims(), [2, 3, 32, 32]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Descent {
    /// The number of descent steps.
    pub steps: usize,
    /// Adam's initial learning rate, in units of pixels in [−1, 1].
    pub learning_rate: f64,
    /// The weight of the mean of |x|⁶.
    pub norm: f64,
    /// The weight of the mean squared difference of neighbouring pixels.
    pub variation: f64,
    /// The number of noise images from which each z is started.
    pub starts: usize,
}

impl Default for Descent {
    fn default() -> Self {
        Self {
            steps: 200,
            learning_rate: 0.05,
            norm: 0.1,
            variation: 2.0,
            starts: 2,
        }
    }
}

/// The result of an inversion by descent.
#[derive(Clone, Debug)]
pub struct Inverted {
    /// The images, (batch, 3, size, size) in [−1, 1].
    pub images: Tensor,
    /// ‖Φ(x) − z‖² / ‖z‖² of each image.
    pub error: Vec<f64>,
}

impl Descent {
    /// Inverts z = Φ(x), as computed by the greybox, to images of `size` × `size` pixels. Use a
    /// frozen network ([`Backbone::frozen`](crate::backbone::Backbone::frozen)): then no gradient
    /// of its parameters is computed. The images are on the network's device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no z, no start or no step; [`Error::Unsupported`] if no gradient
    /// passes through the network; [`Error::Diverged`] if the objective becomes NaN or infinite.
    pub fn invert(
        &self,
        greybox: &Greybox,
        z: &Tensor,
        size: usize,
        rng: &mut Rng,
    ) -> Result<Inverted> {
        let count = z.dims().first().copied().unwrap_or(0);
        if count == 0 || self.starts == 0 || self.steps == 0 {
            return Err(Error::invalid(format!(
                "expected at least one z, one start and one step, found {count} z, {} starts and {} steps",
                self.starts, self.steps
            )));
        }
        if let Some(why) = greybox.network().no_gradient() {
            return Err(Error::unsupported(format!(
                "inversion by gradient descent needs a gradient with respect to the image, and none passes through {}: {why}",
                greybox.network().name()
            )));
        }
        let placement = greybox.placement().unwrap_or(Placement::of(z));
        let (mut images, mut error) = (Vec::new(), Vec::new());
        for start in (0..count).step_by(BATCH_SIZE) {
            let z = rows_on(&placement.device, z, start, BATCH_SIZE.min(count - start))?;
            let z = placement.take(&z.detach())?;
            let mut best: Option<(Tensor, Vec<f64>)> = None;
            for _ in 0..self.starts {
                let (found, errors) = self.run_start(greybox, &z, size, rng)?;
                best = Some(match best {
                    None => (found, errors),
                    Some((best, best_errors)) => {
                        let better: Vec<bool> = errors
                            .iter()
                            .zip(&best_errors)
                            .map(|(a, b)| a < b)
                            .collect();
                        let mask: Vec<u8> = better.iter().map(|b| u8::from(*b)).collect();
                        let mask = Tensor::from_vec(mask, (better.len(), 1, 1, 1), found.device())?
                            .broadcast_as(found.shape())?;
                        let smaller = errors.iter().zip(&best_errors).map(|(a, b)| a.min(*b));
                        (mask.where_cond(&found, &best)?, smaller.collect())
                    }
                });
            }
            if let Some((found, errors)) = best {
                images.push(found);
                error.extend(errors);
            }
        }
        Ok(Inverted {
            images: Tensor::cat(&images, 0)?,
            error,
        })
    }

    /// Runs one start for each z.
    fn run_start(
        &self,
        greybox: &Greybox,
        z: &Tensor,
        size: usize,
        rng: &mut Rng,
    ) -> Result<(Tensor, Vec<f64>)> {
        let n = z.dim(0)?;
        // In half precision, the image and the objective are in f32.
        let target = wide(&z.flatten_from(1)?)?;
        let squared_norm = (target.sqr()?.sum(1)? + 1e-12)?;
        let relative_error = |x: &Tensor| -> Result<Tensor> {
            let difference = (wide(&greybox.encode(x)?.flatten_from(1)?)? - &target)?;
            Ok((difference.sqr()?.sum(1)? / &squared_norm)?)
        };
        let noise = rng
            .normal((n, 3, size, size), z.device())?
            .affine(0.1, 0.0)?;
        let x = Var::from_tensor(&noise.to_dtype(target.dtype())?)?;
        let mut adam = Adam::named(vec![("image".into(), x.clone())])?.betas(0.9, 0.99);
        let pixels = (3 * size * size) as f64;
        for step in 0..self.steps {
            let horizontal = (x.narrow(3, 1, size - 1)? - x.narrow(3, 0, size - 1)?)?;
            let vertical = (x.narrow(2, 1, size - 1)? - x.narrow(2, 0, size - 1)?)?;
            let variation = (horizontal.sqr()?.sum_all()? + vertical.sqr()?.sum_all()?)?;
            let norm = x.sqr()?.powf(3.0)?.sum_all()?;
            let priors =
                ((variation * (self.variation / pixels))? + (norm * (self.norm / pixels))?)?;
            // Summed over the images, so that each image is optimized independently of the
            // others.
            let objective = (relative_error(&x)?.sum_all()? + priors)?;
            let value = scalar(&objective)?;
            if !value.is_finite() {
                return Err(Error::Diverged(format!(
                    "the inversion diverged at step {}: the objective is {value}; lower `learning_rate`",
                    step + 1
                )));
            }
            let done = step as f64 / self.steps as f64;
            let rate = self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
            adam.step_at(&backward(&objective)?, rate)?;
            x.set(&x.as_detached_tensor().clamp(-1f32, 1f32)?)?;
        }
        let found = x.as_detached_tensor().copy()?;
        let error = values(&relative_error(&found)?)?;
        Ok((found, error))
    }
}
