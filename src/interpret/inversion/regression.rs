//! Inversion of a representation by a decoder that is trained on images.

use super::super::{Codes, network_digest};
use crate::autoencoder::Decoder;
use crate::backbone::{Greybox, Mode, Pooling, rows_on};
use crate::data::{Ahead, Dataset, Split};
use crate::flow::Embedder;
use crate::loss::{PatchDiscriminator, adversarial_weight};
use crate::ops::widened as wide;
use crate::ops::{Placement, Rng};
use crate::train::{Decay, Step, Store, TrainConfig, Trained, Trainer};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Inversion by regression (Dosovitskiy, Brox 2016,
/// [arXiv 1602.02644](https://arxiv.org/abs/1602.02644)): a decoder maps z to one image close to
/// x. Closeness is measured by pixels, by the features of a comparator C and by an adversary. The
/// loss is `image`·mean (x̂ − x)² + `feature`·mean (C(x̂) − C(x))² / mean C(x)² + the patch
/// discriminator's term.
///
/// For a fair comparison with t, the decoder has the architecture of D and starts from D's
/// weights. It is preceded by an embedding network of the same kind as the one that brings z into
/// t. The embedding network is first trained for `start_steps` steps to predict the mean code for
/// each z. Then all parts are trained on images. The original has a fixed weight for the
/// adversary. Here, the weight is computed at the last layer ([`adversarial_weight`]) and
/// multiplied by `adversary`.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::ConvVaeConfig;
/// use invariances::backbone::squeezenet_small;
/// use invariances::interpret::Regression;
/// # let cache = std::env::temp_dir().join("invariances-doc-regression");
/// let network = squeezenet_small(10, &Params::new(0).root())?.frozen()?;
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let digits = Digits::strokes(32, 0)?;
/// let config = Regression { comparator: "conv1".into(), start_steps: 5, training: TrainConfig { steps: 2, batch: 4, ..Default::default() }, ..Default::default() };
/// let pool = network.at("pool")?;
/// let codes = Codes::of(&vae, &pool, &digits, Split::Train, 16)?;
/// let store = Store::open(&cache);
/// let (inverter, trained) = config.fit("example", &pool, &codes, &digits, &vae, &store)?;
/// let z = pool.encode(&digits.batch(Split::Test, 0, 3)?.images)?;
/// assert_eq!(inverter.invert(&z)?.dims(), [3, 3, 32, 32]);
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Regression {
    /// The weight of the squared error of the pixels.
    pub image: f64,
    /// The weight of the squared error of the features.
    pub feature: f64,
    /// The layer of the network under study whose features are compared. The original uses
    /// AlexNet's conv5.
    pub comparator: String,
    /// A factor for the adaptive weight of the adversary's term; 0 turns the adversary off.
    pub adversary: f64,
    /// The number of steps (batch size 128) in which only the embedding is trained, to predict
    /// the mean code of each z, before training on images.
    pub start_steps: u64,
    /// Steps on images, batch size, optimizer, seed.
    pub training: TrainConfig,
}

impl Default for Regression {
    fn default() -> Self {
        Self {
            image: 1.0,
            feature: 0.1,
            comparator: "conv5".into(),
            adversary: 0.1,
            start_steps: 1000,
            training: TrainConfig {
                steps: 500,
                batch: 16,
                learning_rate: 2e-4,
                betas: (0.5, 0.99),
                decay: Decay::Cosine { floor: 0.02 },
                warm_up: 20,
                clip: Some(100.0),
                ..TrainConfig::default()
            },
        }
    }
}

/// The number of images whose features identify a comparator.
const DIGEST_IMAGES: usize = 8;

/// A decoder from z to an image, trained by [`Regression::fit`].
#[derive(Clone, Debug)]
pub struct Inverter {
    embedder: Embedder,
    decoder: Arc<dyn Decoder>,
}

impl Inverter {
    fn forward(&self, z: &Tensor) -> Result<Tensor> {
        self.decoder.decode(&self.embedder.forward(z)?)
    }

    /// Returns the image of each z, (batch, 3, size, size) in [−1, 1], without a graph and on the
    /// decoder's device.
    ///
    /// # Errors
    /// [`Error::Shape`] if z does not have the shape of the layer's output, or no row.
    pub fn invert(&self, z: &Tensor) -> Result<Tensor> {
        let placement = Placement::of(&self.decoder.last_weight());
        let mut images = Vec::new();
        let count = z.dims().first().copied().unwrap_or(0);
        for start in (0..count).step_by(64) {
            let z = rows_on(&placement.device, z, start, 64.min(count - start))?;
            let z = placement.take(&z.detach())?;
            images.push(self.forward(&z)?.detach().clamp(-1f32, 1f32)?);
        }
        if images.is_empty() {
            return Err(Error::shape(format!(
                "expected at least one z, found a tensor of shape {:?}",
                z.dims()
            )));
        }
        Ok(Tensor::cat(&images, 0)?)
    }
}

impl Regression {
    /// Trains a decoder for the greybox's z on the training split of `dataset`, in order, starting
    /// from D's weights (`start`). The result is stored in `store`. The key is `name`, these
    /// settings, and the data and networks used. If a trained decoder exists under this key, it is
    /// loaded instead. `codes` are the codes of the greybox, computed with its network. The decoder
    /// is on the store's device.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown comparator; [`Error::Shape`] if sizes do not fit;
    /// also as [`Trainer::fit_in`].
    pub fn fit(
        &self,
        name: &str,
        greybox: &Greybox,
        codes: &Codes,
        dataset: &(impl Dataset + Clone + 'static),
        start: &dyn Decoder,
        store: &Store,
    ) -> Result<(Inverter, Trained)> {
        let training = &self.training;
        let all = store.params(training.seed);
        let placement = all.placement();
        let root = all.root();
        let comparator = greybox.with_pooling(Pooling::None).at(&self.comparator)?;
        let inverter = Inverter {
            embedder: Embedder::new(codes.condition(), start.code(), 4, &root.pp("embedder"))?,
            decoder: start.copy_below(&root.pp("vae"))?,
        };
        let (_, z) = codes.draw(512, &mut Rng::named(training.seed, "start"))?;
        inverter.embedder.initialize(&placement.take(&z)?)?;
        let origin = (codes.id(), all.below(&["vae"]).digest()?);
        if self.start_steps > 0 {
            let first = TrainConfig {
                steps: self.start_steps,
                batch: 128,
                learning_rate: 2e-3,
                betas: (0.9, 0.99),
                ..training.clone()
            };
            let slot = store.slot(&format!("{name}-start"), &(&first, &origin))?;
            let embedding = all.below(&["embedder"]);
            Trainer::new(first)
                .quiet()
                .fit_in(&slot, &embedding, |_, rng| {
                    let (code, z) = codes.draw(128, rng)?;
                    let (code, z) = (placement.take(&code)?, placement.take(&z)?);
                    let difference = (inverter.embedder.forward(&z)? - code)?;
                    Ok(Step::new(difference.sqr()?.mean_all()?))
                })?;
        }
        // The encoder of the copied autoencoder is not trained.
        let params = all.below(&["embedder", "vae.decoder"]);
        let adversary_params = store.params(training.seed.wrapping_add(1));
        let discriminator = match self.adversary > 0.0 {
            true => Some(PatchDiscriminator::new(&adversary_params.root())?),
            false => None,
        };
        // The weights that decide the result: those of the start are in `origin`, and so is z of all
        // codes, which changes with the weights of any layer up to `layer`. A comparator among
        // these layers is covered by that. The weights of a comparator after `layer` are not part
        // of z, so the network's outputs are added to the key.
        let (network, layer) = (greybox.network(), greybox.layer());
        let key = (self, dataset.id(), network.name(), &layer, &origin);
        let is_after = network.position(&self.comparator)? > network.position(&layer)?;
        let slot = if is_after && self.feature > 0.0 {
            let images = dataset.batch(Split::Train, 0, DIGEST_IMAGES)?.images;
            store.slot(name, &(&key, network_digest(network.as_ref(), &images)?))?
        } else {
            store.slot(name, &key)?
        };
        let (dataset, batch) = (dataset.clone(), training.batch);
        let batches =
            Ahead::new(move |n| dataset.batch(Split::Train, (n - 1) * batch as u64, batch));
        let mut trainer = Trainer::new(training.clone());
        if discriminator.is_some() {
            trainer = trainer.adversary(&adversary_params);
        }
        let both = [greybox.clone(), comparator];
        let trained = trainer.fit_in(&slot, &params, |n, _| {
            let x = placement.take(&batches.at(n)?.images)?;
            self.step(&inverter, &both, &x, discriminator.as_ref())
        })?;
        Ok((inverter, trained))
    }

    /// One training step for images x; `both` are the layer of z and the comparator.
    fn step(
        &self,
        inverter: &Inverter,
        both: &[Greybox; 2],
        x: &Tensor,
        discriminator: Option<&PatchDiscriminator>,
    ) -> Result<Step> {
        let outputs = Greybox::encode_all(both, x)?;
        // The network under study may be on another device than the decoder.
        let z = Placement::of(x).take(&outputs[0].detach())?;
        let features = wide(&outputs[1].detach())?;
        let hidden = inverter
            .decoder
            .before_last(&inverter.embedder.forward(&z)?)?;
        let image = inverter.decoder.last_layer(&hidden)?;
        let mse = (wide(&image)? - wide(x)?)?.sqr()?.mean_all()?;
        let at = Placement::of(&mse);
        let mut loss = (&mse * self.image)?;
        let mut step_values = vec![("mse", mse)];
        if self.feature > 0.0 {
            let compared = wide(&both[1].encode(&image)?)?;
            let error = (compared - &features)?.sqr()?.mean_all()?;
            let error = (error / (features.sqr()?.mean_all()? + 1e-12)?)?;
            let error = at.take(&error)?;
            loss = (loss + (&error * self.feature)?)?;
            step_values.push(("feature", error));
        }
        let mut adversary_loss = None;
        let mut weight = 0.0;
        if let Some(discriminator) = discriminator {
            // The weight is computed on the graph of the last layer only.
            let detached = inverter.decoder.last_layer(&hidden.detach())?;
            let error = ((wide(&detached)? - wide(x)?)?.sqr()?.mean_all()? * self.image)?;
            weight = self.adversary
                * adversarial_weight(
                    &error,
                    &discriminator.generator_loss(&detached)?,
                    &inverter.decoder.last_weight(),
                )?;
            loss = (loss + (discriminator.generator_loss(&image)? * weight)?)?;
            let trains = discriminator.with_mode(Mode::Training);
            adversary_loss = Some(trains.loss(x, &image.detach())?);
        }
        let mut step = Step::new(loss);
        for (name, value) in &step_values {
            step = step.with_tensor(name, value);
        }
        if let Some(adversary_loss) = &adversary_loss {
            step = step
                .with_tensor("adversary", adversary_loss)
                .with("adversary_weight", weight)
                .with_adversary(adversary_loss);
        }
        Ok(step)
    }
}
