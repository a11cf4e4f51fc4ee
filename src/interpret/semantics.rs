//! The factor network e for the concepts of a dataset: its training ([`FactorTraining`]), and the
//! interpretation of codes and representations with it ([`Semantics`]).

use super::Codes;
use super::free::share_within;
use crate::autoencoder::{Autoencoder, Posterior};
use crate::data::{Dataset, Split};
use crate::flow::{FactorConfig, FactorInn, Flow, factor_dims};
use crate::loss::pair_nll;
use crate::ops::Rng;
use crate::train::{Decay, Step, Store, TrainConfig, Trained, Trainer};
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::names::nearest;
use invariances_core::say;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings for building and training the factor network e for concepts of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FactorTraining {
    /// The number of flow blocks.
    pub flows: usize,
    /// The width of the coupling networks s and t in a block.
    pub hidden: usize,
    /// The number of hidden layers of the coupling networks s and t after the first.
    pub depth: usize,
    /// The correlation of a shared factor within a pair.
    pub rho: f64,
    /// The number of image pairs for each concept.
    pub pairs: usize,
    /// The number of dimensions of each concept's factor; the residual has the remaining ones. By
    /// default they are estimated from the data ([`factor_dims`]). The estimate is printed in any
    /// case. It is too large for a concept that needs few dimensions, such as a colour, and too
    /// small for one that needs many, such as a person's identity.
    pub sizes: Option<Vec<usize>>,
    /// Steps, batch size (pairs), optimizer, seed.
    pub training: TrainConfig,
}

impl Default for FactorTraining {
    /// Settings for some minutes of training on two CPU cores. The paper's e has 12 flows with a
    /// hidden width of 512.
    fn default() -> Self {
        Self {
            flows: 8,
            hidden: 128,
            depth: 2,
            rho: 0.975,
            pairs: 8000,
            sizes: None,
            training: TrainConfig {
                steps: 2000,
                batch: 64,
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

impl FactorTraining {
    /// Trains e with the pair loss ([`pair_nll`]) on the codes of the dataset's pairs for each of
    /// `concepts` (a selection of [`Dataset::concepts`]). The result is stored in `store`. The key is
    /// `name`, these settings and the content of the codes. If a trained e exists under this key,
    /// it is loaded instead. e is on the store's device.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no concepts or no pairs, if a concept is repeated, or if the
    /// sizes do not fit; [`Error::Unknown`] for an unknown concept; also as [`Trainer::fit_in`].
    pub fn fit(
        &self,
        name: &str,
        autoencoder: &dyn Autoencoder,
        dataset: &dyn Dataset,
        concepts: &[&str],
        store: &Store,
    ) -> Result<(Semantics, Trained)> {
        for (i, concept) in concepts.iter().enumerate() {
            if concepts[..i].contains(concept) {
                return Err(Error::invalid(format!(
                    "expected each concept once, found {concept:?} twice"
                )));
            }
        }
        if concepts.is_empty() || self.pairs == 0 {
            return Err(Error::invalid(format!(
                "expected at least one concept and one pair, found {} concepts and {} pairs: the concepts of {} are {}",
                concepts.len(),
                self.pairs,
                dataset.id(),
                dataset.concepts().join(", ")
            )));
        }
        let mut pairs = Vec::new();
        for concept in concepts {
            pairs.push(Pairs::of(autoencoder, dataset, concept, self.pairs)?);
        }
        let (mut a, mut b, mut factor) = (vec![], vec![], vec![]);
        for (k, pairs) in pairs.iter().enumerate() {
            a.push(pairs.first.mode());
            b.push(pairs.second.mode());
            factor.extend(std::iter::repeat_n(k, self.pairs));
        }
        let (a, b) = (Tensor::cat(&a, 0)?, Tensor::cat(&b, 0)?);
        let estimated = factor_dims(&a, &b, &factor, concepts.len())?;
        say(&format!(
            "estimated dimensions of the factors, with the residual last: {estimated:?}"
        ));
        let sizes = match &self.sizes {
            None => estimated,
            Some(sizes) => {
                let (code, sum) = (a.dim(1)?, sizes.iter().sum::<usize>());
                if sizes.len() != concepts.len() || sizes.contains(&0) || sum >= code {
                    return Err(Error::invalid(format!(
                        "expected one size of at least 1 for each of {} concepts, with a sum below the code size {code}, found {sizes:?}",
                        concepts.len()
                    )));
                }
                sizes.iter().copied().chain([code - sum]).collect()
            }
        };
        let config = FactorConfig {
            hidden: self.hidden,
            depth: self.depth,
            flows: self.flows,
            ..FactorConfig::new(sizes.clone())
        };
        let training = &self.training;
        let params = store.params(training.seed);
        let placement = params.placement();
        let e = FactorInn::new(&config, &params.root())?;
        let order = Rng::named(training.seed, "start").permutation(a.dim(0)?);
        let chosen = Tensor::new(&order[..512.min(order.len())], a.device())?;
        e.initialize(&placement.take(&a.index_select(&chosen, 0)?)?)?;
        let mut hash = blake3::Hasher::new();
        for codes in [&a, &b] {
            let mut bytes = Vec::new();
            codes.write_bytes(&mut bytes)?;
            hash.update(&bytes);
        }
        let data = hash.finalize().to_hex().to_string();
        let slot = store.slot(name, &(&config, self, concepts, dataset.id(), data))?;
        let trained = Trainer::new(training.clone()).fit_in(&slot, &params, |_, rng| {
            let (mut a, mut b, mut shared) = (vec![], vec![], vec![]);
            // Distributes the batch evenly over the concepts.
            for (k, pairs) in pairs.iter().enumerate() {
                let count = (training.batch + k) / concepts.len();
                if count == 0 {
                    continue;
                }
                let (first, second) = pairs.draw(count, rng)?;
                a.push(first);
                b.push(second);
                shared.extend(std::iter::repeat_n(k as i64, count));
            }
            let (a, b) = (Tensor::cat(&a, 0)?, Tensor::cat(&b, 0)?);
            let (va, la) = e.forward(&placement.take(&a)?)?;
            let (vb, lb) = e.forward(&placement.take(&b)?)?;
            Ok(Step::new(
                pair_nll((&va, &la), (&vb, &lb), &shared, &sizes, self.rho)?.loss,
            ))
        })?;
        let concepts = concepts.iter().map(ToString::to_string).collect();
        Ok((Semantics { e, concepts }, trained))
    }
}

/// The codes of image pairs that share a concept; row i of both belongs to pair i.
struct Pairs {
    first: Posterior,
    second: Posterior,
}

impl Pairs {
    fn of(
        autoencoder: &dyn Autoencoder,
        dataset: &dyn Dataset,
        concept: &str,
        count: usize,
    ) -> Result<Self> {
        let (mut first, mut second) = (vec![], vec![]);
        for start in (0..count).step_by(128) {
            let batch_size = 128.min(count - start);
            let (a, b) = dataset.pairs(Split::Train, start as u64, batch_size, concept)?;
            for (batch, parts) in [(a, &mut first), (b, &mut second)] {
                let posterior = autoencoder.encode(&batch.images.detach())?;
                parts.push((posterior.mode().detach(), posterior.logvar().detach()));
            }
        }
        let concatenated = |parts: Vec<(Tensor, Tensor)>| {
            let (mean, logvar): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            Posterior::new(&Tensor::cat(&mean, 0)?, &Tensor::cat(&logvar, 0)?)
        };
        Ok(Self {
            first: concatenated(first)?,
            second: concatenated(second)?,
        })
    }

    fn draw(&self, count: usize, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        let pairs = self.first.mode().dim(0)?;
        let chosen: Vec<u32> = (0..count).map(|_| rng.below(pairs) as u32).collect();
        let chosen = Tensor::new(chosen, self.first.mode().device())?;
        Ok((
            self.first.select(&chosen)?.sample(rng)?,
            self.second.select(&chosen)?.sample(rng)?,
        ))
    }
}

/// The factor network e with the names of its factors. It describes a code z̄ by concepts, and,
/// together with t, how much a representation z contains about each concept.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::ConvVaeConfig;
/// use invariances::interpret::FactorTraining;
/// # let cache = std::env::temp_dir().join("invariances-doc-semantics");
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let digits = Digits::strokes(32, 0)?;
/// let config = FactorTraining { flows: 2, pairs: 16, training: TrainConfig { steps: 2, batch: 8, ..Default::default() }, ..Default::default() };
/// let (semantics, trained) = config.fit("example", &vae, &digits, &["digit", "background"], &Store::open(&cache))?;
/// let factors = semantics.factors(&vae.encode(&digits.batch(Split::Test, 0, 4)?.images)?.mode())?;
/// assert_eq!(factors.len(), 3); // digit, background, and the residual
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Semantics {
    /// The factor network; its last factor is the residual.
    pub e: FactorInn,
    /// The names of the other factors, in order.
    pub concepts: Vec<String>,
}

impl Semantics {
    /// The factors of codes (batch, code), by concept, each (batch, size of the factor). The part
    /// that no concept explains is called `residual`. Without a graph.
    ///
    /// # Errors
    /// As [`FactorInn::forward`].
    pub fn factors(&self, codes: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        let e = self.e.detached();
        let parts = e.split(&e.forward(&codes.detach())?.0)?;
        let names = self.concepts.iter().map(String::as_str).chain(["residual"]);
        Ok(names.map(ToString::to_string).zip(parts).collect())
    }

    /// Codes (batch, code) in which the factor of one concept (or `residual`) is replaced by that
    /// of `others`, row by row. For example, the code of one person with the glasses of another
    /// person. Without a graph.
    ///
    /// ```
    /// # use invariances::prelude::*;
    /// # use invariances::flow::{FactorConfig, FactorInn};
    /// # use invariances::interpret::Semantics;
    /// # let config = FactorConfig { hidden: 16, flows: 2, ..FactorConfig::new(vec![2, 4]) };
    /// # let e = FactorInn::new(&config, &Params::new(0).root())?;
    /// # let (codes, others) = (Rng::new(1).normal((8, 6), &Device::Cpu)?, Rng::new(2).normal((8, 6), &Device::Cpu)?);
    /// # e.initialize(&codes)?;
    /// # let semantics = Semantics { e, concepts: vec!["glasses".into()] };
    /// let swapped = semantics.swap(&codes, &others, "glasses")?;
    /// let found = &semantics.factors(&swapped)?["glasses"] - &semantics.factors(&others)?["glasses"];
    /// assert!(found?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-3);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown concept; [`Error::Shape`] if the shapes differ.
    pub fn swap(&self, codes: &Tensor, others: &Tensor, concept: &str) -> Result<Tensor> {
        let names: Vec<&str> = self.concepts.iter().map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().chain(["residual"]).collect();
        let index = names.iter().position(|name| *name == concept);
        let index = index.ok_or_else(|| {
            let advice = match nearest(concept, &names) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            };
            Error::unknown(format!(
                "no factor {concept:?}: expected one of {}{advice}",
                names.join(", ")
            ))
        })?;
        let e = self.e.detached();
        let (a, _) = e.forward(&codes.detach())?;
        let (b, _) = e.forward(&others.detach())?;
        e.inverse(&e.swap(&a, &b, index)?)
    }

    /// Interpolates between `codes` and `others` (both (batch, code)) along a straight line in
    /// the space of e: e⁻¹((1 − s)·e(a) + s·e(b)), where s is `share`, in [0, 1]. Without a
    /// graph.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn between(&self, codes: &Tensor, others: &Tensor, share: f64) -> Result<Tensor> {
        let e = self.e.detached();
        let (a, _) = e.forward(&codes.detach())?;
        let (b, _) = e.forward(&others.detach())?;
        if a.dims() != b.dims() {
            return Err(Error::shape(format!(
                "expected start and end codes of the same shape, found {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        e.inverse(&((a * (1.0 - share))? + (b * share)?)?)
    }

    /// The share of each factor's variance that z captures: 1 − Var(e_k | z) / Var(e_k), one
    /// value per image (arXiv 2008.01777, section 4.3). The variance given z is measured over
    /// `per_image` codes t⁻¹(v | z), and the total variance over such codes of all images. Both
    /// are summed over the dimensions of the factor. The share is 1 for a factor that z fixes,
    /// and 0 for one that z leaves free.
    ///
    /// If t is trained well, its codes of all images have the same distribution as the codes of
    /// E. If it is not, the noise of t is contained in both variances; then the share is too low,
    /// but not below 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two images or fewer than two samples of each.
    pub fn captured(
        &self,
        t: &dyn Flow,
        codes: &Codes,
        per_image: usize,
        rng: &mut Rng,
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        if codes.len() < 2 || per_image < 2 {
            return Err(Error::invalid(format!(
                "expected at least two images and two samples per image, found {} images and {per_image} samples per image",
                codes.len()
            )));
        }
        let factors = self.factors(&t.sample(Some(&codes.z()), per_image, rng)?)?;
        let mut captured = BTreeMap::new();
        for (name, all) in factors {
            let free = share_within(&all, &all, per_image)?;
            captured.insert(name, free.into_iter().map(|f| 1.0 - f).collect());
        }
        Ok(captured)
    }
}
