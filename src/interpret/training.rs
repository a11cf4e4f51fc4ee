//! The training of t: by flow matching ([`MatchingTraining`]), as the paper's conditional
//! invertible network ([`CinnTraining`]), or as any other conditional flow ([`fit_flow`]).

use super::Codes;
use crate::flow::{Cinn, CinnConfig, Condition, Flow, FlowMatching, FlowMatchingConfig};
use crate::loss::nll;
use crate::ops::{Params, Placement, Rng, scalar};
use crate::train::{Decay, Step, Store, TrainConfig, Trained, Trainer};
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::say;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The error of round trips up to which more steps of the solver are taken.
const EXACT: f64 = 0.005;

/// The number of codes whose round trips are measured.
const CHECKED: usize = 512;

/// Settings that build and train a t for the codes of a layer: [`MatchingTraining`],
/// [`CinnTraining`], or your own.
pub trait FlowTraining {
    /// Trains t and stores it in `store`. The key is `name`, these settings and the content of the
    /// codes. If a trained t exists under this key, it is loaded instead. t is on the store's
    /// device.
    ///
    /// # Errors
    /// As [`CinnTraining::fit`].
    fn train(&self, name: &str, codes: &Codes, store: &Store) -> Result<(Arc<dyn Flow>, Trained)>;
}

/// Settings for building and training t as a [`FlowMatching`], for the codes of a layer. Compared
/// with the paper's affine coupling ([`CinnTraining`]), v is nearer to noise after the same time of
/// training, measured with one seed, and sampling takes 2 to 3.3 times as long with 6 steps of the
/// solver (docs/results/flows.md). The time of sampling grows with these steps.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::ConvVaeConfig;
/// use invariances::backbone::squeezenet_small;
/// # let cache = std::env::temp_dir().join("invariances-doc-matching-training");
/// let network = squeezenet_small(10, &Params::new(0).root())?;
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let codes = Codes::of(&vae, &network.at("pool")?, &Digits::strokes(32, 0)?, Split::Train, 16)?;
/// let mut how = MatchingTraining::default();
/// (how.training.steps, how.training.batch) = (2, 8);
/// let (t, trained) = how.fit("example", &codes, &Store::open(&cache))?;
/// let images = Samples::draw(&t, &vae, &codes.z(), 3, &mut Rng::new(0))?.images();
/// assert_eq!(images.dims(), [48, 3, 32, 32]);
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MatchingTraining {
    /// Width of the velocity's residual blocks; `None` chooses it by the size of the code
    /// ([`FlowMatchingConfig::new`]).
    pub hidden: Option<usize>,
    /// The number of residual blocks.
    pub blocks: usize,
    /// The number of steps of the solver. `None` begins with that of [`FlowMatchingConfig::new`]
    /// and takes more, at most 64, until round trips of the training codes are exact to 0.005
    /// standard deviations, half of what a [`Certificate`](super::Certificate) allows.
    pub solver_steps: Option<usize>,
    /// How many times the embedder of t halves a map; see [`CinnTraining::down`].
    pub down: Option<usize>,
    /// How many noise vectors are drawn for each code of a batch. A step then has as many codes
    /// fewer, so that it takes less time where z is a map. `None`: 4 for a map, 1 for a vector.
    pub draws: Option<usize>,
    /// Steps, batch size, optimizer, seed, and the moving average of the weights.
    pub training: TrainConfig,
}

impl Default for MatchingTraining {
    /// Settings for about a minute of training on two CPU cores.
    fn default() -> Self {
        Self {
            hidden: None,
            blocks: 3,
            solver_steps: None,
            down: None,
            draws: None,
            training: TrainConfig {
                steps: 5000,
                learning_rate: 2e-3,
                ema: Some(0.999),
                ..CinnTraining::default().training
            },
        }
    }
}

impl MatchingTraining {
    /// The configuration of t for these codes.
    pub fn config(&self, codes: &Codes) -> FlowMatchingConfig {
        let usual = FlowMatchingConfig::new(codes.code(), condition_of(codes, self.down));
        let draws = match (self.draws, usual.condition) {
            (Some(draws), _) => draws,
            (None, Condition::Map { .. }) => 4,
            (None, Condition::Vector(_)) => 1,
        };
        FlowMatchingConfig {
            hidden: self.hidden.unwrap_or(usual.hidden),
            blocks: self.blocks,
            steps: self.solver_steps.unwrap_or(usual.steps),
            draws,
            ..usual
        }
    }

    /// Trains t ([`Flow::loss`]) and stores it, as [`FlowTraining::train`] says. A patience has the
    /// effect that [`CinnTraining::fit`] describes.
    ///
    /// # Errors
    /// As [`CinnTraining::fit`].
    pub fn fit(&self, name: &str, codes: &Codes, store: &Store) -> Result<(FlowMatching, Trained)> {
        let config = self.config(codes);
        let training = &TrainConfig {
            batch: (self.training.batch / config.draws.max(1)).max(1),
            ..self.training.clone()
        };
        let params = store.params(training.seed);
        let t = FlowMatching::new(&config, &params.root())?;
        let trained = fit_flow(name, &t, &config, &params, training, codes, store)?;
        let t = match self.solver_steps {
            Some(_) => t,
            None => exact(t, codes, training.seed)?,
        };
        Ok((t, trained))
    }
}

/// Takes the fewest steps of the solver, of some numbers, with which round trips are exact to
/// [`EXACT`]; the last number if none is enough.
fn exact(t: FlowMatching, codes: &Codes, seed: u64) -> Result<FlowMatching> {
    let (code, z) = codes.draw(CHECKED, &mut Rng::named(seed, "round trips"))?;
    let error_of = |t: &FlowMatching| match t.round_trip_error(&code, &z) {
        // An inverse that is not finite.
        Err(Error::Invalid(_)) => Ok(f64::INFINITY),
        other => other,
    };
    let least = t.config().steps;
    let (mut steps, mut error) = (least, error_of(&t)?);
    for more in [8, 12, 16, 24, 32, 48, 64] {
        if error <= EXACT {
            break;
        }
        if more > least {
            (steps, error) = (more, error_of(&t.with_steps(more))?);
        }
    }
    if steps > least {
        say(&format!(
            "{steps} steps of the solver instead of {least}: round trips are exact to {error:.0e} standard deviations"
        ));
    }
    Ok(t.with_steps(steps))
}

impl FlowTraining for MatchingTraining {
    fn train(&self, name: &str, codes: &Codes, store: &Store) -> Result<(Arc<dyn Flow>, Trained)> {
        let (t, trained) = self.fit(name, codes, store)?;
        Ok((Arc::new(t), trained))
    }
}

impl FlowTraining for CinnTraining {
    fn train(&self, name: &str, codes: &Codes, store: &Store) -> Result<(Arc<dyn Flow>, Trained)> {
        let (t, trained) = self.fit(name, codes, store)?;
        Ok((Arc::new(t), trained))
    }
}

/// The shape of z, with another number of halvings of a map.
fn condition_of(codes: &Codes, down: Option<usize>) -> Condition {
    match (codes.condition(), down) {
        (Condition::Map { channels, size, .. }, Some(down)) => Condition::Map {
            channels,
            size,
            down,
        },
        (condition, _) => condition,
    }
}

/// Settings for building and training t as the paper's [`Cinn`], for the codes of a layer. The
/// same settings fit the map
/// of a convolutional layer and a softmax, because the [`Condition`] follows from the codes.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::ConvVaeConfig;
/// use invariances::backbone::squeezenet_small;
/// # let cache = std::env::temp_dir().join("invariances-doc-cinn-training");
/// let network = squeezenet_small(10, &Params::new(0).root())?;
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let codes = Codes::of(&vae, &network.at("pool")?, &Digits::strokes(32, 0)?, Split::Train, 16)?;
/// let config = CinnTraining { flows: 2, training: TrainConfig { steps: 2, batch: 8, ..CinnTraining::default().training }, ..Default::default() };
/// let (t, trained) = config.fit("example", &codes, &Store::open(&cache))?;
/// let images = Samples::draw(&t, &vae, &codes.z(), 3, &mut Rng::new(0))?.images();
/// assert_eq!(images.dims(), [48, 3, 32, 32]);
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CinnTraining {
    /// The number of flow blocks.
    pub flows: usize,
    /// The width of the coupling networks s and t in a block.
    pub hidden: usize,
    /// The number of hidden layers of the coupling networks s and t after the first.
    pub depth: usize,
    /// How many times the embedder of t halves a map, before a dense layer takes all positions.
    /// `None` halves it until it is at most 4 × 4 ([`Condition::of`]). It has no effect on a layer
    /// whose output is a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<usize>,
    /// Steps, batch size, optimizer, seed. The weight decay keeps t from overfitting the training
    /// images.
    pub training: TrainConfig,
}

impl Default for CinnTraining {
    /// Settings for some minutes of training on two CPU cores. The paper's t has 20 flows with a
    /// hidden width of 1024.
    fn default() -> Self {
        Self {
            flows: 12,
            hidden: 128,
            depth: 2,
            down: None,
            training: TrainConfig {
                steps: 2000,
                batch: 128,
                learning_rate: 1e-3,
                betas: (0.9, 0.99),
                decay: Decay::Cosine { floor: 0.01 },
                warm_up: 50,
                clip: Some(100.0),
                weight_decay: 0.1,
                ..TrainConfig::default()
            },
        }
    }
}

impl CinnTraining {
    /// The configuration of t for these codes.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::autoencoder::ConvVaeConfig;
    /// use invariances::backbone::squeezenet_small;
    /// let network = squeezenet_small(10, &Params::new(0).root())?;
    /// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
    /// let codes = Codes::of(&vae, &network.at("fire4")?, &Digits::strokes(32, 0)?, Split::Train, 2)?;
    /// let config = CinnTraining { down: Some(1), ..Default::default() }.config(&codes);
    /// assert_eq!(config.condition, Condition::Map { channels: 128, size: 4, down: 1 });
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn config(&self, codes: &Codes) -> CinnConfig {
        CinnConfig {
            flows: self.flows,
            hidden: self.hidden,
            depth: self.depth,
            ..CinnConfig::new(codes.code(), condition_of(codes, self.down))
        }
    }

    /// Trains t with the paper's loss ([`nll`]) and stores it in `store`. The key is `name`, these
    /// settings and the content of the codes. If a trained t exists under this key, it is loaded
    /// instead. t is on the store's device.
    ///
    /// With [`TrainConfig::patience`], t is not trained on the last twentieth of the images (at
    /// most 2000); only the batch that initialises its ActNorms is drawn from all images. The loss
    /// on these images is measured regularly. Training stops when it no longer falls, and the
    /// weights with the smallest value are kept. Use it for few images: t would overfit.
    ///
    /// # Errors
    /// As [`Cinn::new`] and [`Trainer::fit_in`]; [`Error::Invalid`] for a patience and the codes of
    /// one image only.
    pub fn fit(&self, name: &str, codes: &Codes, store: &Store) -> Result<(Cinn, Trained)> {
        let (t, _, trained) = self.fit_in(name, codes, store)?;
        Ok((t, trained))
    }

    /// As [`CinnTraining::fit`]; returns the parameters of t too.
    pub(super) fn fit_in(
        &self,
        name: &str,
        codes: &Codes,
        store: &Store,
    ) -> Result<(Cinn, Params, Trained)> {
        let (training, config) = (&self.training, self.config(codes));
        let params = store.params(training.seed);
        let t = Cinn::new(&config, &params.root())?;
        let start = |code: &Tensor, z: &Tensor| t.initialize(code, z);
        let fit = Fit {
            name,
            training,
            codes,
            store,
        };
        let losses = [t.clone(), t.detached()].map(|t| loss_of(t, params.placement()));
        let trained = fit.run(&config, &params, start, losses)?;
        Ok((t, params, trained))
    }
}

/// Trains any flow that is conditioned on z with its own loss ([`Flow::loss`]) and stores it, as
/// [`CinnTraining::fit`] does for t. `flow` was created in `params`, and `config` is its
/// configuration. The key in the store is `name`, the type of the flow, `config`, the initial
/// weights, these settings and the content of the codes.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::{autoencoder::ConvVaeConfig, backbone::squeezenet_small, interpret::fit_flow};
/// use invariances::flow::{FlowMatching, FlowMatchingConfig};
/// # let cache = std::env::temp_dir().join("invariances-doc-fit-flow");
/// let network = squeezenet_small(10, &Params::new(0).root())?;
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let codes = Codes::of(&vae, &network.at("pool")?, &Digits::strokes(32, 0)?, Split::Train, 40)?;
/// let config = FlowMatchingConfig::new(codes.code(), codes.condition());
/// let training = TrainConfig { steps: 2, batch: 8, ..CinnTraining::default().training };
/// let store = Store::open(&cache);
/// let params = store.params(training.seed);
/// let t = FlowMatching::new(&config, &params.root())?;
/// fit_flow("example", &t, &config, &params, &training, &codes, &store)?;
/// let images = Samples::draw(&t, &vae, &codes.z(), 3, &mut Rng::new(0))?.images();
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// As [`CinnTraining::fit`].
pub fn fit_flow(
    name: &str,
    flow: &(impl Flow + Clone + 'static),
    config: &impl Serialize,
    params: &Params,
    training: &TrainConfig,
    codes: &Codes,
    store: &Store,
) -> Result<Trained> {
    let start = |code: &Tensor, z: &Tensor| flow.initialize(code, Some(z));
    let fit = Fit {
        name,
        training,
        codes,
        store,
    };
    let key = (std::any::type_name_of_val(flow), config, params.digest()?);
    let (flow, placement) = (flow.clone(), params.placement());
    let loss: Loss = Arc::new(move |code, z, rng| {
        flow.loss(&placement.take(code)?, Some(&placement.take(z)?), rng)
    });
    fit.run(&key, params, start, [loss.clone(), loss])
}

/// The loss of a batch of codes and their z.
pub(super) type Loss = Arc<dyn Fn(&Tensor, &Tensor, &mut Rng) -> Result<Tensor> + Send + Sync>;

/// The loss of t ([`nll`]).
pub(super) fn loss_of(t: Cinn, placement: Placement) -> Loss {
    Arc::new(move |code, z, _| {
        let (v, logdet) = t.forward(&placement.take(code)?, &placement.take(z)?)?;
        nll(&v, &logdet)
    })
}

/// The training of a conditional flow on codes.
pub(super) struct Fit<'a> {
    pub(super) name: &'a str,
    pub(super) training: &'a TrainConfig,
    pub(super) codes: &'a Codes,
    pub(super) store: &'a Store,
}

impl Fit<'_> {
    /// Initialises and trains. The second loss may keep no graph.
    pub(super) fn run(
        &self,
        config: &impl Serialize,
        params: &Params,
        start: impl Fn(&Tensor, &Tensor) -> Result<()>,
        [loss, validation]: [Loss; 2],
    ) -> Result<Trained> {
        let Self {
            name,
            training,
            codes,
            store,
        } = *self;
        let placement = params.placement();
        let held_out = match training.patience {
            Some(_) => (codes.len() / 20).clamp(1, 2000),
            None => 0,
        };
        let seen = codes.len() - held_out;
        if seen == 0 {
            return Err(Error::invalid(
                "expected the codes of at least two images for a training with patience, found one",
            ));
        }
        let (code, z) = codes.draw(512, &mut Rng::named(training.seed, "start"))?;
        start(&placement.take(&code)?, &placement.take(&z)?)?;
        let slot = store.slot(name, &(config, training, codes.id()))?;
        let mut trainer = Trainer::new(training.clone());
        if held_out > 0 {
            let mut rng = Rng::named(training.seed, "validation");
            let rows: Vec<u32> = (seen as u32..codes.len() as u32).collect();
            let (code, z) = codes.sampled(rows, &mut rng)?;
            let seed = training.seed;
            trainer = trainer.validate(move || mean_loss(&validation, &code, &z, seed));
        }
        trainer.fit_in(&slot, params, |_, rng| {
            let (code, z) = codes.draw_from(seen, training.batch, rng)?;
            Ok(Step::new(loss(&code, &z, rng)?))
        })
    }
}

/// Computes the mean loss of any number of codes, 256 at a time. Random numbers are the same in
/// each call.
fn mean_loss(loss: &Loss, code: &Tensor, z: &Tensor, seed: u64) -> Result<f64> {
    const BATCH: usize = 256;
    let mut rng = Rng::named(seed, "validation loss");
    let count = code.dim(0)?;
    let mut sum = 0.0;
    for start in (0..count).step_by(BATCH) {
        let size = BATCH.min(count - start);
        let (code, z) = (code.narrow(0, start, size)?, z.narrow(0, start, size)?);
        sum += scalar(&loss(&code, &z, &mut rng)?.detach())? * size as f64;
    }
    Ok(sum / count as f64)
}
