//! Training of the encoder E and the decoder D (a VAE), with a choice of loss terms, and of a
//! perceptual distance that needs no download.

use super::built::roughen;
use super::plan::independent;
use super::recipe::batches;
use crate::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig, Decoder, Posterior};
use crate::backbone::Mode;
use crate::data::Dataset;
use crate::loss::{
    FeatureDistance, PatchDiscriminator, PerceptualDistance, adversarial_weight, normal_nll,
    perceptual_vae_loss, vae_loss,
};
use crate::ops::{Params, Placement, Rng, values, widened};
use crate::train::{Slot, Step, Store, TrainConfig, Trained, Trainer};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_core::say;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How pixels are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pixels {
    /// Squared difference: a normal likelihood with a learned scale ([`vae_loss`]).
    #[default]
    Squared,
    /// Absolute difference: the paper's loss ([`perceptual_vae_loss`]).
    Absolute,
}

/// Settings to train an encoder E and a decoder D. Each term of the loss can be switched on or
/// off.
///
/// ```no_run
/// use invariances::prelude::*;
/// use invariances::recipes::VaeTraining;
/// let lab = Lab::open("losses")?;
/// let digits = Digits::strokes(32, 0)?;
/// let plain = VaeTraining { training: TrainConfig { steps: 500, ..Default::default() }, ..Default::default() };
/// let sharper = VaeTraining { adversary_from: Some(250), ..plain.clone() };
/// let (vae, trained) = sharper.fit("digits-gan", &digits, None, &lab.store())?;
/// println!("{trained}");
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeTraining {
    /// The architecture of E and D.
    pub network: ConvVaeConfig,
    /// How pixels are compared.
    pub pixels: Pixels,
    /// Weight of the perceptual distance, if there is one, relative to the pixel difference. The
    /// paper uses 1 with the absolute difference. The squared difference is smaller, so the
    /// weight should be smaller too, unless the distance has a scale of its own.
    pub perceptual_weight: f64,
    /// Whether the perceptual distance has a scale of its own instead of that of the pixels. Its
    /// term of the loss is then w N/2 ln(distance), for N values per image and the weight w: the
    /// likelihood with the scale that fits the batch best (arXiv 2006.13202). So w
    /// says how many nats a distance that is 1 % smaller is worth, beside a pixel difference that
    /// is 1 % smaller, whatever the sizes of the two.
    #[serde(skip_serializing_if = "is_off")]
    pub own_scale: bool,
    /// Weight of the edges: the mean squared difference between the gradients of image and
    /// reconstruction, from pixel to pixel. It has a scale of its own, as
    /// [`VaeTraining::own_scale`] describes. 0 for no such term.
    #[serde(skip_serializing_if = "is_zero")]
    pub edges_weight: f64,
    /// Weight of the KL divergence.
    pub kl_weight: f64,
    /// The step from which a patch discriminator is used, with the paper's adaptive weight: the
    /// ratio of the gradients at the last layer of D.
    pub adversary_from: Option<u64>,
    /// Number of steps, batch size, optimiser, seed.
    pub training: TrainConfig,
}

// Settings that are off are not written: the keys of networks that were trained before these
// settings existed stay valid.

fn is_off(setting: &bool) -> bool {
    !setting
}

fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

impl Default for VaeTraining {
    fn default() -> Self {
        Self {
            network: ConvVaeConfig::default(),
            pixels: Pixels::Squared,
            perceptual_weight: 1.0,
            own_scale: false,
            edges_weight: 0.0,
            kl_weight: 1.0,
            adversary_from: None,
            training: TrainConfig::default(),
        }
    }
}

impl VaeTraining {
    /// Returns the terms of the loss as they are written, without architecture and training
    /// settings; `None` for the plain loss, [`vae_loss`](crate::loss::vae_loss).
    pub(super) fn terms(&self) -> Option<serde_json::Value> {
        let plain = Self {
            network: self.network.clone(),
            training: self.training.clone(),
            ..Self::default()
        };
        if *self == plain {
            return None;
        }
        let mut terms = json!(self);
        if let Some(terms) = terms.as_object_mut() {
            terms.remove("network");
            terms.remove("training");
        }
        Some(terms)
    }

    /// Returns the slot of this training. Its configuration contains the loss terms, the data,
    /// the start weights, and the values of the perceptual distance on fixed inputs.
    fn slot(
        &self,
        name: &str,
        dataset: &dyn Dataset,
        perceptual: Option<&dyn PerceptualDistance>,
        start: Option<&str>,
        store: &Store,
    ) -> Result<Slot> {
        let fingerprint = perceptual.map(|distance| -> Result<_> {
            // The distance is evaluated on a fixed pair of noise images: other weights give other
            // values.
            let size = self.network.size;
            let mut rng = Rng::named(0, "perceptual distance");
            let a = rng.uniform(-1.0, 1.0, (1, 3, size, size), &Device::Cpu)?;
            let b = rng.uniform(-1.0, 1.0, (1, 3, size, size), &Device::Cpu)?;
            let values = values(&distance.distance(&a, &b)?)?;
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Ok((distance.name(), values))
        });
        let fingerprint = fingerprint.transpose()?;
        store.slot(
            name,
            &json!({"vae": self, "data": dataset.id(), "perceptual": fingerprint, "start": start}),
        )
    }

    /// Trains E and D on the training split of a dataset and stores them in `store`; if they are
    /// already stored, they are loaded. A procedural dataset shows each image once, a finite one
    /// repeats its images.
    ///
    /// The network behind `perceptual` must take no part in the later analysis of the images.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another size than E and D; otherwise as
    /// [`Trainer::fit_in`].
    pub fn fit(
        &self,
        name: &str,
        dataset: &(impl Dataset + Clone + 'static),
        perceptual: Option<&dyn PerceptualDistance>,
        store: &Store,
    ) -> Result<(ConvVae, Trained)> {
        let params = store.params(self.training.seed);
        let vae = ConvVae::new(&self.network, &params.root())?;
        let slot = self.slot(name, dataset, perceptual, None, store)?;
        self.run((vae, params), dataset, perceptual, &slot)
    }

    /// Trains as [`VaeTraining::fit`], but starts from the weights of `start`, which does not
    /// change. This way, the effect of another loss term shows after a few steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `start` has another architecture; otherwise as [`VaeTraining::fit`].
    pub fn refine(
        &self,
        start: &ConvVae,
        name: &str,
        dataset: &(impl Dataset + Clone + 'static),
        perceptual: Option<&dyn PerceptualDistance>,
        store: &Store,
    ) -> Result<(ConvVae, Trained)> {
        if start.config() != &self.network {
            return Err(Error::invalid(format!(
                "expected start weights for the architecture {:?}, found {:?}: set `network: start.config().clone()`",
                self.network,
                start.config()
            )));
        }
        let params = store.params(self.training.seed);
        let vae = start.copy_to(&params.root())?;
        let slot = self.slot(name, dataset, perceptual, Some(&params.digest()?), store)?;
        self.run((vae, params), dataset, perceptual, &slot)
    }

    /// Trains E and D, whose parameters are `params`, in a slot.
    pub(super) fn run(
        &self,
        (vae, params): (ConvVae, Params),
        dataset: &(impl Dataset + Clone + 'static),
        perceptual: Option<&dyn PerceptualDistance>,
        slot: &Slot,
    ) -> Result<(ConvVae, Trained)> {
        if dataset.size() != self.network.size {
            return Err(Error::shape(format!(
                "expected images of {} pixels, the size of E and D, found {} pixels: use the same size for both",
                self.network.size,
                dataset.size()
            )));
        }
        if let Some(distance) = perceptual {
            say(&format!("perceptual distance: {}", distance.name()));
        }
        let seed = self.training.seed.wrapping_add(1);
        let adversary_params = Params::with(seed, params.dtype(), params.device());
        let adversary = match self.adversary_from {
            Some(from) => Some((PatchDiscriminator::new(&adversary_params.root())?, from)),
            None => None,
        };
        let batches = batches(dataset, self.training.batch);
        let mut trainer = Trainer::new(self.training.clone());
        if adversary.is_some() {
            trainer = trainer.adversary(&adversary_params);
        }
        let trained = trainer.fit_in(slot, &params, |n, rng| {
            let x = batches.at(n)?.images;
            let adversary = adversary.as_ref().filter(|(_, from)| n >= *from);
            self.step(&vae, &x, perceptual, adversary.map(|(d, _)| d), rng)
        })?;
        Ok((vae, trained))
    }

    /// Computes the loss of one step, and the loss of the adversary if there is one.
    pub(super) fn step(
        &self,
        vae: &ConvVae,
        x: &Tensor,
        perceptual: Option<&dyn PerceptualDistance>,
        adversary: Option<&PatchDiscriminator>,
        rng: &mut Rng,
    ) -> Result<Step> {
        // The images are compared with those of D, so they are moved to D's device, once.
        let x = &Placement::of(&vae.last_weight()).take(x)?;
        let posterior = vae.encode(x)?;
        let hidden = vae.before_last(&posterior.sample(rng)?)?;
        let decoded = vae.last_layer(&hidden)?;
        // The reconstruction term of the loss (negative log-likelihood), as a function of the
        // reconstruction.
        let likelihood =
            |decoded: &Tensor| self.likelihood(vae, x, decoded, &posterior, perceptual);
        let (nll, report) = likelihood(&decoded)?;
        let kl = posterior.kl()?.mean_all()?;
        let mut loss = (&nll + (&kl * self.kl_weight)?)?;
        let mut adversary_loss = None;
        if let Some(discriminator) = adversary {
            let discriminator = discriminator.with_mode(Mode::Training);
            let generator = discriminator.generator_loss(&decoded)?;
            // The weight compares gradients at the last layer only, so the graph of that layer is
            // enough.
            let detached = vae.last_layer(&hidden.detach())?;
            let weight = adversarial_weight(
                &likelihood(&detached)?.0,
                &discriminator.generator_loss(&detached)?,
                &vae.last_weight(),
            )?;
            loss = (loss + (generator * weight)?)?;
            adversary_loss = Some((discriminator.loss(x, &decoded)?, weight));
        }
        let mut step = Step::new(loss).with_tensor("kl", &kl);
        for (name, value) in report {
            step = step.with_tensor(name, &value);
        }
        if let Some((loss, weight)) = adversary_loss {
            step = step
                .with_tensor("adversary", &loss)
                .with("adversary_weight", weight)
                .with_adversary(&loss);
        }
        Ok(step)
    }
}

impl VaeTraining {
    /// Computes the negative log-likelihood of a batch, averaged over the images, and the values
    /// to report.
    fn likelihood(
        &self,
        vae: &ConvVae,
        x: &Tensor,
        decoded: &Tensor,
        posterior: &Posterior,
        perceptual: Option<&dyn PerceptualDistance>,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let elements = (x.elem_count() / x.dims()[0].max(1)) as f64;
        // The distance that shares the scale of the pixels, and the one that does not.
        let (shared, own) = match self.own_scale {
            true => (None, perceptual),
            false => (perceptual, None),
        };
        let weighted = shared.map(|distance| Weighted {
            distance,
            weight: self.perceptual_weight,
        });
        let (mut nll, mut report) = match self.pixels {
            Pixels::Squared => {
                let parts = vae_loss(x, decoded, posterior, &vae.gamma())?;
                let mut error = parts.mse.clone();
                let mut report = vec![("mse", parts.mse)];
                if let Some(weighted) = &weighted {
                    // The network of the distance may be on another device.
                    let term = weighted.distance(x, decoded)?.mean_all()?;
                    let term = Placement::of(&error).take(&term)?;
                    error = (error + &term)?;
                    report.push(("perceptual", term));
                }
                (normal_nll(&error, &vae.gamma(), elements)?, report)
            }
            Pixels::Absolute => {
                let weighted = weighted.as_ref().map(|w| w as &dyn PerceptualDistance);
                let gamma = vae.gamma();
                let parts = perceptual_vae_loss((x, decoded), posterior, &gamma, weighted, 0.0)?;
                let mut report = vec![("l1", parts.l1)];
                if shared.is_some() || own.is_none() {
                    report.push(("perceptual", parts.perceptual));
                }
                (parts.nll, report)
            }
        };
        let mut add = |name, distance: Tensor, weight: f64| -> Result<()> {
            let distance = Placement::of(&nll).take(&distance.mean_all()?)?;
            // The constant keeps the logarithm finite for images without any difference.
            let term = (&distance + 1e-8)?.log()?;
            nll = (&nll + term.affine(0.5 * elements * weight, 0.0)?)?;
            report.push((name, distance));
            Ok(())
        };
        if let Some(distance) = own {
            let distance = distance.distance(x, decoded)?;
            add("perceptual", distance, self.perceptual_weight)?;
        }
        if self.edges_weight != 0.0 {
            add("edges", edges(x, decoded)?, self.edges_weight)?;
        }
        Ok((nll, report))
    }
}

/// Computes the mean squared difference between the gradients of two batches of images, from
/// pixel to pixel, horizontally plus vertically: a scalar.
fn edges(x: &Tensor, decoded: &Tensor) -> Result<Tensor> {
    let difference = (widened(decoded)? - widened(x)?)?;
    let (height, width) = (difference.dim(2)?, difference.dim(3)?);
    let across = (difference.narrow(3, 1, width - 1)? - difference.narrow(3, 0, width - 1)?)?;
    let down = (difference.narrow(2, 1, height - 1)? - difference.narrow(2, 0, height - 1)?)?;
    Ok((across.sqr()?.mean_all()? + down.sqr()?.mean_all()?)?)
}

/// A distance multiplied by a weight.
struct Weighted<'a> {
    distance: &'a dyn PerceptualDistance,
    weight: f64,
}

impl PerceptualDistance for Weighted<'_> {
    fn name(&self) -> String {
        format!("{} × {}", self.weight, self.distance.name())
    }

    fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok((self.distance.distance(a, b)? * self.weight)?)
    }
}

/// Trains a perceptual distance for a dataset, without a download. A plain convolutional network
/// learns to predict the dataset's [attributes](Dataset::attributes) from images that are partly
/// blurred and noisy. It is then frozen and used only for this distance. It is not LPIPS, and
/// must not be the network under study.
///
/// ```no_run
/// use invariances::prelude::*;
/// use invariances::loss::PerceptualDistance;
/// use invariances::recipes::train_perceptual;
/// let lab = Lab::open("losses")?;
/// let creatures = Creatures::new(32, 0)?.stylized();
/// let training = TrainConfig { steps: 400, batch: 64, learning_rate: 2e-3, ..Default::default() };
/// let (distance, trained) = train_perceptual(&creatures, &training, &lab.store())?;
/// println!("{}: {trained}", distance.name());
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// As [`Trainer::fit_in`].
pub fn train_perceptual(
    dataset: &(impl Dataset + Clone + 'static),
    training: &TrainConfig,
    store: &Store,
) -> Result<(FeatureDistance, Trained)> {
    let params = store.params(training.seed ^ 0x9E37);
    let independent = independent(dataset, &params.root())?;
    let key = json!({"perceptual": "plain_small", "data": dataset.id(), "training": training});
    let slot = store.slot("perceptual", &key)?;
    let batches = batches(dataset, training.batch);
    let trained = Trainer::new(training.clone()).fit_in(&slot, &params, |n, rng| {
        let batch = batches.at(n)?;
        let images = roughen(&params.placement().take(&batch.images)?, rng)?;
        Ok(Step::new(independent.loss(&images, &batch.factors)?))
    })?;
    let distance = FeatureDistance::new(
        &independent.network().frozen()?,
        &["conv1", "conv2", "conv4", "conv5"],
    )?;
    Ok((distance, trained))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Digits, Split};

    fn tiny() -> VaeTraining {
        VaeTraining {
            network: ConvVaeConfig {
                code: 8,
                widths: [4, 8, 8],
                last_width: 4,
                ..ConvVaeConfig::default()
            },
            pixels: Pixels::Absolute,
            ..VaeTraining::default()
        }
    }

    /// The adversary's weight is the same from the graph of the last layer as from the whole
    /// graph.
    #[test]
    fn the_weight_at_the_last_layer_needs_that_layer_alone() -> Result<()> {
        let config = tiny();
        let params = Params::new(0);
        let vae = ConvVae::new(&config.network, &params.root())?;
        let discriminator = PatchDiscriminator::new(&Params::new(1).root())?;
        let x = Digits::strokes(32, 0)?.batch(Split::Train, 0, 4)?.images;
        let posterior = vae.encode(&x)?;
        let mut rng = Rng::new(2);
        let hidden = vae.before_last(&posterior.sample(&mut rng)?)?;
        let weight = |decoded: &Tensor| -> Result<f64> {
            let parts = perceptual_vae_loss((&x, decoded), &posterior, &vae.gamma(), None, 0.0)?;
            let generator = discriminator.generator_loss(decoded)?;
            adversarial_weight(&parts.nll, &generator, &vae.last_weight())
        };
        let (whole, alone) = (
            weight(&vae.last_layer(&hidden)?)?,
            weight(&vae.last_layer(&hidden.detach())?)?,
        );
        assert!(
            whole > 0.0 && (whole - alone).abs() < 1e-5 * whole,
            "{whole} {alone}"
        );
        Ok(())
    }

    /// A step reports its loss terms, and the adversary joins at the step that was set.
    #[test]
    fn terms_join_and_leave() -> Result<()> {
        let config = tiny();
        let params = Params::new(0);
        let vae = ConvVae::new(&config.network, &params.root())?;
        let against = Params::new(1);
        let discriminator = PatchDiscriminator::new(&against.root())?;
        let x = Digits::strokes(32, 0)?.batch(Split::Train, 0, 4)?.images;
        let mut names = Vec::new();
        for adversary in [None, Some(&discriminator)] {
            let step = config.step(&vae, &x, None, adversary, &mut Rng::new(3))?;
            names.push(format!("{step:?}").contains("adversary_weight"));
        }
        assert_eq!(names, [false, true]);
        let digits = Digits::strokes(32, 0)?;
        let store = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let store = Store::open(store.path());
        let short = VaeTraining {
            adversary_from: Some(3),
            training: TrainConfig {
                steps: 5,
                batch: 4,
                ..TrainConfig::default()
            },
            ..config.clone()
        };
        let (_, trained) = short.fit("short", &digits, None, &store)?;
        let weight = trained.log.column("adversary_weight")?.f64()?.clone();
        let seen: Vec<bool> = weight.iter().map(|v| v.is_some()).collect();
        assert_eq!(seen, [false, false, true, true, true]);
        // Every loss term is part of the slot's configuration.
        let slot = |v: &VaeTraining| v.slot("vae", &digits, None, None, &store);
        let first = slot(&short)?;
        for other in [
            VaeTraining {
                kl_weight: 0.5,
                ..short.clone()
            },
            VaeTraining {
                pixels: Pixels::Squared,
                ..short.clone()
            },
            VaeTraining {
                adversary_from: None,
                ..short.clone()
            },
        ] {
            assert_ne!(slot(&other)?.folder(), first.folder());
        }
        let small = Digits::strokes(16, 0)?;
        let text = short
            .fit("x", &small, None, &store)
            .unwrap_err()
            .to_string();
        assert!(text.contains("32") && text.contains("16"), "{text}");
        Ok(())
    }

    /// A term with a scale of its own adds w N/2 ln(distance) to the negative log-likelihood. The
    /// distance of edges is the fine structure of the difference of the images.
    #[test]
    fn terms_with_a_scale_of_their_own_add_a_logarithm() -> Result<()> {
        let plain = VaeTraining {
            pixels: Pixels::Squared,
            ..tiny()
        };
        let vae = ConvVae::new(&plain.network, &Params::new(0).root())?;
        let x = Digits::strokes(32, 0)?.batch(Split::Test, 0, 3)?.images;
        let posterior = vae.encode(&x)?;
        let decoded = vae.decode(&posterior.mode())?;
        let network = crate::backbone::plain_small(10, &Params::new(1).root())?.frozen()?;
        let features = FeatureDistance::new(&network, &["conv2"])?;
        let features: &dyn PerceptualDistance = &features;
        let nll = |training: &VaeTraining, distance| -> Result<f64> {
            let (nll, _) = training.likelihood(&vae, &x, &decoded, &posterior, distance)?;
            Ok(values(&nll)?[0])
        };
        let base = nll(&plain, None)?;
        let mean = |v: Vec<f64>| v.iter().sum::<f64>() / v.len() as f64;
        let half = 0.5 * (3 * 32 * 32) as f64;
        let edges = mean(crate::metric::fine_structure(&(&x - &decoded)?)?);
        let sharp = VaeTraining {
            edges_weight: 0.3,
            ..plain.clone()
        };
        let expected = base + 0.3 * half * edges.ln();
        let found = nll(&sharp, None)?;
        assert!((found - expected).abs() < 0.05, "{found} {expected}");
        let own = VaeTraining {
            own_scale: true,
            perceptual_weight: 2.0,
            ..plain.clone()
        };
        let distance = mean(values(&features.distance(&x, &decoded)?)?);
        let expected = base + 2.0 * half * distance.ln();
        let found = nll(&own, Some(features))?;
        assert!((found - expected).abs() < 0.05, "{found} {expected}");
        Ok(())
    }

    /// Fine-tuning starts from the given weights and does not change them. Each start has its own
    /// slot.
    #[test]
    fn another_loss_goes_on_from_where_the_first_ended() -> Result<()> {
        let digits = Digits::strokes(32, 0)?;
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let store = Store::open(folder.path());
        let short = VaeTraining {
            pixels: Pixels::Squared,
            perceptual_weight: 0.1,
            training: TrainConfig {
                steps: 3,
                batch: 4,
                ..TrainConfig::default()
            },
            ..tiny()
        };
        let start = |seed| -> Result<(ConvVae, Params)> {
            let params = Params::new(seed);
            Ok((ConvVae::new(&short.network, &params.root())?, params))
        };
        let ((vae, params), (other, _)) = (start(7)?, start(8)?);
        let x = digits.batch(Split::Test, 0, 2)?.images;
        let reconstruction = |vae: &ConvVae| -> Result<Vec<f32>> {
            Ok(vae.reconstruct(&x)?.flatten_all()?.to_vec1()?)
        };
        let before = params.digest()?;
        let same = vae.copy_to(&Params::new(9).root())?;
        assert_eq!(reconstruction(&same)?, reconstruction(&vae)?);
        let features = train_perceptual(
            &digits,
            &TrainConfig {
                steps: 1,
                batch: 4,
                ..TrainConfig::default()
            },
            &store,
        )?;
        let distance: Option<&dyn PerceptualDistance> = Some(&features.0);
        let (changed, log) = short.refine(&vae, "on", &digits, distance, &store)?;
        assert_ne!(reconstruction(&changed)?, reconstruction(&vae)?);
        assert!(log.log.column("perceptual").is_ok() && log.log.column("mse").is_ok());
        assert_eq!(params.digest()?, before);
        let (elsewhere, _) = short.refine(&other, "on", &digits, distance, &store)?;
        assert_ne!(reconstruction(&elsewhere)?, reconstruction(&changed)?);
        let (again, _) = short.refine(&vae, "on", &digits, distance, &store)?;
        assert_eq!(reconstruction(&again)?, reconstruction(&changed)?);
        let wider = VaeTraining {
            network: ConvVaeConfig {
                code: short.network.code + 1,
                ..short.network.clone()
            },
            ..short
        };
        let text = wider.refine(&vae, "on", &digits, None, &store).unwrap_err();
        assert!(text.to_string().contains("start.config()"), "{text}");
        Ok(())
    }
}
