//! [`FibreTuning`]: fine-tunes t so that the images of its samples come back to their z.

use super::training::{Fit, Loss, loss_of};
use super::{CinnTraining, Codes};
use crate::autoencoder::Autoencoder;
use crate::backbone::Greybox;
use crate::flow::Cinn;
use crate::ops::{Placement, Rng, backward, host, scalar, values, widened};
use crate::train::{Store, TrainConfig, Trained};
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The number of images by which a decoder and a network are told apart in the store.
const DIGEST_IMAGES: usize = 4;

/// The largest number of images from which the variance of z is computed.
const VARIANCE_IMAGES: usize = 4000;

/// Settings to fine-tune t with the fibre loss: the negative log-density of t plus `weight` times
/// the mean of ‖Φ(D(t⁻¹(v | z))) − z‖² over v ~ N(0, 1), divided by the variance of z.
///
/// All images with the same z are the fibre of z. The log-density alone does not see D: it makes
/// codes likely whose images may lie off the fibre. The second term moves the samples towards it.
/// With a large weight, t gives up variation that z does leave free, or dimensions of v that are
/// standard normal: compare [`Certificate`](super::Certificate) and
/// [`Fidelity`](super::Fidelity) before and after.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::{autoencoder::ConvVaeConfig, backbone::squeezenet_small, interpret::FibreTuning};
/// # let cache = std::env::temp_dir().join("invariances-doc-fibre");
/// let network = squeezenet_small(10, &Params::new(0).root())?.frozen()?;
/// let pool = network.at("pool")?;
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let codes = Codes::of(&vae, &pool, &Digits::strokes(32, 0)?, Split::Train, 40)?;
/// let brief = TrainConfig { steps: 2, batch: 8, ..CinnTraining::default().training };
/// let config = CinnTraining { flows: 2, training: brief.clone(), ..Default::default() };
/// let tuning = FibreTuning { samples: 2, training: brief, ..Default::default() };
/// let (t, trained) = tuning.fit("example", &config, &codes, &vae, &pool, &Store::open(&cache))?;
/// println!("{trained}");
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FibreTuning {
    /// The cost, in nats, of a squared distance that equals the variance of z. Unrelated images are
    /// two variances apart. 30 by default: of 3, 10, 30 and 100 it is the largest weight with which a
    /// classifier did not tell v from noise more often than without (t at fc6 of notebook 05,
    /// docs/statistics.md).
    pub weight: f64,
    /// The number of samples per step whose images are made; z are those of the first images of
    /// the batch.
    pub samples: usize,
    /// Steps, batch size, optimizer, seed of the fine-tuning.
    pub training: TrainConfig,
}

impl Default for FibreTuning {
    /// Weight 30, 300 steps with 16 images each, and a fifth of the learning rate of [`CinnTraining`].
    fn default() -> Self {
        let training = CinnTraining::default().training;
        Self {
            weight: 30.0,
            samples: 16,
            training: TrainConfig {
                steps: 300,
                learning_rate: training.learning_rate / 5.0,
                ..training
            },
        }
    }
}

impl FibreTuning {
    /// Trains t as [`CinnTraining::fit`] does, or loads it, then fine-tunes it and stores the
    /// result under another key. The settings, the codes, D and the network are part of the key.
    /// With a patience, the sum of both terms is validated. Use a frozen network
    /// ([`Backbone::frozen`](crate::backbone::Backbone::frozen)): gradients of its weights would be
    /// computed in each step, and dropped.
    ///
    /// # Errors
    /// As [`CinnTraining::fit`]; [`Error::Invalid`] for a negative weight, for no samples, and for
    /// z that does not vary; [`Error::Unsupported`] if no gradient passes through D and the
    /// network.
    pub fn fit(
        &self,
        name: &str,
        of: &CinnTraining,
        codes: &Codes,
        autoencoder: &(impl Autoencoder + Clone + Send + Sync + 'static),
        greybox: &Greybox,
        store: &Store,
    ) -> Result<(Cinn, Trained)> {
        if !self.weight.is_finite() || self.weight < 0.0 || self.samples == 0 {
            return Err(Error::invalid(format!(
                "expected a finite weight of at least 0 and at least 1 sample per step, found {} and {}",
                self.weight, self.samples
            )));
        }
        let variance = variance(&codes.z())?;
        let (t, params, _) = of.fit_in(name, codes, store)?;
        let fibre = Fibre {
            autoencoder: autoencoder.clone(),
            greybox: greybox.clone(),
            variance,
            samples: self.samples,
        };
        fibre.check(codes)?;
        let key = (of.config(codes), self, fibre.fingerprint(codes)?);
        let (weight, fibre) = (self.weight, Arc::new(fibre));
        let trained = Fit {
            name: &format!("{name}-fibre"),
            training: &self.training,
            codes,
            store,
        }
        .run(
            &(&key, of),
            &params,
            |code, z| t.initialize(code, z),
            [t.clone(), t.detached()].map(|t| -> Loss {
                let likelihood = loss_of(t.clone(), params.placement());
                let fibre = fibre.clone();
                Arc::new(move |code, z, rng| {
                    let nats = likelihood(code, z, rng)?;
                    let distance = fibre.distance(&t, z, rng)?;
                    let distance = Placement::of(&nats).take(&(distance * weight)?)?;
                    Ok((nats + distance)?)
                })
            }),
        )?;
        Ok((t, trained))
    }
}

/// The decoder and the network through which samples come back to z.
struct Fibre<A> {
    autoencoder: A,
    greybox: Greybox,
    variance: f64,
    samples: usize,
}

impl<A: Autoencoder> Fibre<A> {
    /// The mean squared distance of samples to z, in variances of z: a scalar with its graph.
    fn distance(&self, t: &Cinn, z: &Tensor, rng: &mut Rng) -> Result<Tensor> {
        let count = self.samples.min(z.dim(0)?);
        let z = z.narrow(0, 0, count)?.contiguous()?;
        let v = rng.normal((count, t.config().dim), z.device())?;
        self.distance_of(&t.inverse(&v, &z)?, &z)
    }

    /// The same for codes and their z.
    fn distance_of(&self, code: &Tensor, z: &Tensor) -> Result<Tensor> {
        let count = z.dim(0)?;
        let image = self.autoencoder.decode(code)?;
        let found = self.greybox.encode(&image.clamp(-1f32, 1f32)?)?;
        let found = widened(&found.flatten_from(1)?)?;
        let z = Placement::of(&found).take(&z.flatten_from(1)?)?;
        let distance = (found - z)?.sqr()?.sum_all()?;
        Ok((distance / (count as f64 * self.variance))?)
    }

    /// Returns an error if no gradient passes from the distance to the code.
    fn check(&self, codes: &Codes) -> Result<()> {
        let (code, z) = codes.draw(1, &mut Rng::new(0))?;
        let code = Var::from_tensor(&code)?;
        let gradients = backward(&self.distance_of(&code, &z)?)?;
        if gradients.get(code.as_tensor()).is_some() {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "the distance at layer {} has no gradient with respect to the code: the fibre loss needs \
             one through D and the network",
            self.greybox.layer()
        )))
    }

    /// Identifies D and the network: for a few codes, the mean of the image and its distance to z.
    fn fingerprint(&self, codes: &Codes) -> Result<Vec<f64>> {
        let count = DIGEST_IMAGES.min(codes.len());
        let images = self
            .autoencoder
            .decode(&codes.modes().narrow(0, 0, count)?)?;
        let z = codes.z().narrow(0, 0, count)?.flatten_from(1)?;
        let found = host(&self.greybox.encode(&images)?.flatten_from(1)?)?;
        let distance = (found - host(&z)?)?.sqr()?.sum(1)?;
        let mut all = values(&images.detach().flatten_from(1)?.mean(1)?)?;
        all.extend(values(&distance.detach())?);
        Ok(all)
    }
}

/// The variance of z, summed over its elements.
fn variance(z: &Tensor) -> Result<f64> {
    let count = z.dim(0)?.min(VARIANCE_IMAGES);
    let z = widened(&z.narrow(0, 0, count)?.flatten_from(1)?)?;
    let variance = match count {
        0 | 1 => 0.0,
        _ => scalar(&z.var(0)?.sum_all()?)?,
    };
    if variance > 0.0 && variance.is_finite() {
        return Ok(variance);
    }
    Err(Error::invalid(format!(
        "expected z of at least two images that differ, found {count} images and a variance of \
         {variance}"
    )))
}
