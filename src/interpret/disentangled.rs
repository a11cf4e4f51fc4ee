//! Disentanglement of the factor network e ([`Disentanglement`]): which attributes can be read from
//! which factor of e, with DCI and the mutual information gap. A factor of e has several
//! dimensions. It is called a block here, and the attributes are called factors, as in the papers.

use super::{Probe, ProbeConfig, Semantics, chance};
use crate::figure::{HeatMap, Table};
use crate::metric::{Dci, Estimate, Mig, Resampled, bootstrap_mean, dci, mig};
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::names::nearest;
use std::collections::BTreeMap;

/// The number of bootstrap resamples of an interval.
const RESAMPLES: usize = 2000;

/// How much each block of e (its concepts and the residual) contains about each factor (attribute
/// with known classes), measured by probes.
///
/// For each block and each factor, a [`Probe`] predicts the factor's class from the block alone.
/// The **information** is H(y) − CE, where H(y) is the entropy of the class over the held-out
/// images, and CE the probe's mean cross-entropy on them; values below 0 become 0. Up to the
/// sampling error of the held-out images, it is a lower bound on the mutual information. A probe
/// that predicts the true conditional distribution reaches it; a probe that is too small or
/// overfits gives a lower value.
///
/// From this matrix follow the mutual information gap ([`mig`]) and, with each column divided by
/// the factor's entropy as importance, disentanglement and completeness ([`dci`]). Both assume
/// factors that are independent of each other: a block also contains what its own factor reveals
/// about another one. The third quantity of DCI, **informativeness**, is the accuracy of a probe
/// that reads all blocks together.
///
/// Intervals are 95 % bootstrap intervals over the held-out images, with the probes fixed.
/// Statistics of the same number of images and the same seed are paired.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::flow::{FactorConfig, FactorInn};
/// use invariances::interpret::{Disentanglement, Semantics};
/// use std::collections::BTreeMap;
/// let config = FactorConfig { hidden: 16, flows: 1, ..FactorConfig::new(vec![2, 4]) };
/// let e = FactorInn::new(&config, &Params::new(0).root())?;
/// let codes = Rng::new(1).normal((60, 6), &Device::Cpu)?;
/// e.initialize(&codes)?;
/// let semantics = Semantics { e, concepts: vec!["glasses".into()] };
/// let classes: Vec<u32> = (0..60).map(|i| i % 2).collect();
/// let answers = BTreeMap::from([("glasses".to_string(), classes)]);
/// let probes = ProbeConfig { steps: 10, ..Disentanglement::probes(0) };
/// let found = Disentanglement::of(&semantics, (&codes, &answers), (&codes, &answers), &probes)?;
/// assert_eq!(found.blocks(), ["glasses", "residual"]);
/// assert!(found.information()[0][0] < 2f64.ln() && found.mig()?.gap < 1.0);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Disentanglement {
    blocks: Vec<String>,
    factors: Vec<String>,
    /// For each factor.
    readings: Vec<Reading>,
    images: usize,
    information: Vec<Vec<f64>>,
    entropies: Vec<f64>,
}

impl Disentanglement {
    /// Returns settings of the probes for some thousand training images: 300 steps, a width of 32
    /// and a learning rate of 0.005. Longer training improves the accuracy, but raises the
    /// cross-entropy on held-out images, because the probe overfits.
    pub fn probes(seed: u64) -> ProbeConfig {
        ProbeConfig {
            steps: 300,
            hidden: 32,
            learning_rate: 5e-3,
            seed,
            ..ProbeConfig::default()
        }
    }

    /// Trains the probes and evaluates them on held-out images: one probe for each block and each
    /// factor, and one for all blocks together and each factor.
    ///
    /// `train` and `held_out` are codes z̄ (n, code) and the class of each image, by factor, for
    /// example from [`IndependentClassifier::truth`](crate::metric::IndependentClassifier::truth).
    /// Factors with the name of a block come first, in the order of the blocks, and the others
    /// follow in alphabetical order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the codes do not fit e, or unless there is one class for each image;
    /// [`Error::Invalid`] if there are no factors, if the factors of `train` and `held_out` differ,
    /// if a factor has one class only on the held-out images, or if the training of a probe
    /// diverged.
    pub fn of(
        semantics: &Semantics,
        train: (&Tensor, &BTreeMap<String, Vec<u32>>),
        held_out: (&Tensor, &BTreeMap<String, Vec<u32>>),
        config: &ProbeConfig,
    ) -> Result<Self> {
        let names = semantics.concepts.iter().map(String::as_str);
        let blocks: Vec<String> = names.chain(["residual"]).map(String::from).collect();
        let sizes = &semantics.e.config().factors;
        if sizes.len() != blocks.len() {
            return Err(Error::invalid(format!(
                "expected one concept for each factor of e except the residual, found {} concepts \
                 and {} factors",
                semantics.concepts.len(),
                sizes.len()
            )));
        }
        check_classes("training", train)?;
        check_classes("held-out", held_out)?;
        if train.1.is_empty() || !train.1.keys().eq(held_out.1.keys()) {
            let list = |all: &BTreeMap<String, Vec<u32>>| {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                names.join(", ")
            };
            return Err(Error::invalid(format!(
                "expected the classes of the same factors, at least one, for training and held-out \
                 images, found [{}] and [{}]",
                list(train.1),
                list(held_out.1)
            )));
        }
        let named = blocks.iter().filter(|block| train.1.contains_key(*block));
        let others = train.1.keys().filter(|name| !blocks.contains(name));
        let factors: Vec<String> = named.chain(others).cloned().collect();
        let known = Parts::of(semantics, train.0)?;
        let new = Parts::of(semantics, held_out.0)?;
        let mut readings = Vec::new();
        for name in &factors {
            let classes = [&train.1[name][..], &held_out.1[name][..]];
            let reading = Reading::of(name, &blocks, [&known, &new], classes, config)?;
            readings.push(reading);
        }
        let images = held_out.0.dim(0)?;
        let all: Vec<usize> = (0..images).collect();
        let (information, entropies) = measured(&readings, &all);
        Ok(Self {
            blocks,
            factors,
            readings,
            images,
            information,
            entropies,
        })
    }

    /// The blocks: the concepts of e in their order, and `residual`.
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }

    /// The factors, in the order of the columns of [`Disentanglement::information`].
    pub fn factors(&self) -> &[String] {
        &self.factors
    }

    /// The information of each block (row) about each factor (column) in nats.
    pub fn information(&self) -> &[Vec<f64>] {
        &self.information
    }

    /// The entropy of each factor over the held-out images in nats.
    pub fn entropies(&self) -> &[f64] {
        &self.entropies
    }

    /// The information of each block (row) about each factor (column) as a share of the factor's
    /// entropy, from 0 to 1. It is the importance in [`Disentanglement::dci`].
    pub fn importance(&self) -> Vec<Vec<f64>> {
        shares(&self.information, &self.entropies)
    }

    /// Disentanglement of each block and completeness of each factor.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is only one factor, for which they are not defined.
    pub fn dci(&self) -> Result<Dci> {
        dci(&self.importance())
    }

    /// The mutual information gap of each factor.
    ///
    /// # Errors
    /// As [`mig`].
    pub fn mig(&self) -> Result<Mig> {
        mig(&self.information, &self.entropies)
    }

    /// The mutual information gap, mean over the factors, with its interval.
    ///
    /// # Errors
    /// As [`mig`].
    pub fn gap(&self, seed: u64) -> Result<Resampled> {
        self.resampled(seed, |information, entropies| {
            Ok(mig(information, entropies)?.gap)
        })
    }

    /// The disentanglement, weighted mean over the blocks, with its interval.
    ///
    /// # Errors
    /// As [`Disentanglement::dci`].
    pub fn disentanglement(&self, seed: u64) -> Result<Resampled> {
        self.resampled(seed, |information, entropies| {
            Ok(dci(&shares(information, entropies))?.disentanglement)
        })
    }

    /// The completeness, weighted mean over the factors, with its interval.
    ///
    /// # Errors
    /// As [`Disentanglement::dci`].
    pub fn completeness(&self, seed: u64) -> Result<Resampled> {
        self.resampled(seed, |information, entropies| {
            Ok(dci(&shares(information, entropies))?.completeness)
        })
    }

    /// The accuracy of a probe that reads all blocks together, on the held-out images.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown factor.
    pub fn informativeness(&self, factor: &str, seed: u64) -> Result<Estimate> {
        Ok(bootstrap_mean(&self.reading(factor)?.right, seed))
    }

    /// The accuracy of always predicting the most frequent class of the held-out images.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown factor.
    pub fn chance(&self, factor: &str) -> Result<f64> {
        Ok(self.reading(factor)?.chance)
    }

    /// A heat map of [`Disentanglement::importance`]: blocks are rows, factors are columns.
    pub fn heat_map(&self) -> HeatMap {
        let exact =
            |row: Vec<f64>| -> Vec<Estimate> { row.into_iter().map(Estimate::exact).collect() };
        let values: Vec<Vec<Estimate>> = self.importance().into_iter().map(exact).collect();
        let title = "Information about each attribute, as a share of its entropy";
        HeatMap::new(title, &self.blocks, &self.factors)
            .values(&values)
            .row_title("factor of e")
            .column_title("attribute")
    }

    /// A table with one row for each factor: its entropy, the two blocks with the most information
    /// about it, the gap between them, and the accuracy of a probe that reads all blocks, with its
    /// interval, next to chance.
    ///
    /// # Errors
    /// As [`mig`].
    pub fn table(&self, seed: u64) -> Result<Table> {
        let importance = self.importance();
        let mut table = Table::new([
            "attribute",
            "entropy (nats)",
            "most information",
            "second most",
            "gap",
            "accuracy from all factors of e",
            "chance",
        ]);
        for (k, gap) in self.mig()?.of_factors.iter().enumerate() {
            let name = &self.factors[k];
            let column = importance.iter().map(|row| row[k]);
            let mut ranked: Vec<(&String, f64)> = self.blocks.iter().zip(column).collect();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
            let text = |place: usize| {
                let found = ranked.get(place);
                found.map_or(String::new(), |(block, share)| {
                    format!("{block} {share:.2}")
                })
            };
            table = table.row([
                name.clone(),
                format!("{:.2}", self.entropies[k]),
                text(0),
                text(1),
                format!("{gap:.2}"),
                self.informativeness(name, seed)?.to_string(),
                format!("{:.3}", self.chance(name)?),
            ]);
        }
        Ok(table)
    }

    fn reading(&self, factor: &str) -> Result<&Reading> {
        let found = self.factors.iter().position(|name| name == factor);
        let found = found.and_then(|k| self.readings.get(k));
        found.ok_or_else(|| {
            let names: Vec<&str> = self.factors.iter().map(String::as_str).collect();
            let advice = match nearest(factor, &names) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => String::new(),
            };
            Error::unknown(format!(
                "no factor {factor:?}: expected one of {}{advice}",
                names.join(", ")
            ))
        })
    }

    fn resampled(
        &self,
        seed: u64,
        of: impl Fn(&[Vec<f64>], &[f64]) -> Result<f64>,
    ) -> Result<Resampled> {
        Resampled::statistic(self.images, RESAMPLES, seed, |images| {
            let (information, entropies) = measured(&self.readings, images);
            // A factor with one class in a resample has an entropy of 0, so no block has
            // information about it. Its share is 0, whatever it is divided by.
            let positive = |h: f64| if h > 0.0 { h } else { 1.0 };
            let entropies: Vec<f64> = entropies.into_iter().map(positive).collect();
            of(&information, &entropies)
        })
    }
}

/// What probes read of one factor.
#[derive(Clone, Debug)]
struct Reading {
    /// The class of each held-out image.
    truth: Vec<u32>,
    /// The number of classes; those of `truth` are below it.
    classes: usize,
    /// For each block and held-out image: the cross-entropy in nats.
    cross_entropy: Vec<Vec<f64>>,
    /// For each held-out image: 1 if the probe of all blocks is right, else 0.
    right: Vec<f64>,
    chance: f64,
}

impl Reading {
    /// Trains the probes of one factor. The arrays hold training images and held-out images.
    fn of(
        name: &str,
        blocks: &[String],
        [known, new]: [&Parts; 2],
        [known_classes, new_classes]: [&[u32]; 2],
        config: &ProbeConfig,
    ) -> Result<Self> {
        if new_classes
            .iter()
            .all(|class| new_classes.first() == Some(class))
        {
            return Err(Error::invalid(format!(
                "expected at least two classes of {name:?} on the held-out images, found one: use \
                 more images, or leave this factor out"
            )));
        }
        let all = known_classes.iter().chain(new_classes);
        let classes = all.max().map_or(0, |class| *class as usize + 1);
        let device = known.all.device();
        let labels = Tensor::new(known_classes, device)?;
        let truth = Tensor::new(new_classes, device)?;
        let probe = |x: &Tensor| Probe::train_classes(x, &labels, classes, config);
        let mut cross_entropy = Vec::new();
        for ((x, y), block) in known.blocks.iter().zip(&new.blocks).zip(blocks) {
            let nats = probe(x)?.cross_entropy(y, &truth)?;
            if nats.iter().any(|value| !value.is_finite()) {
                return Err(Error::invalid(format!(
                    "the training of the probe for {name:?} on the factor {block:?} of e diverged: \
                     use a lower learning rate than {}",
                    config.learning_rate
                )));
            }
            cross_entropy.push(nats);
        }
        Ok(Self {
            truth: new_classes.to_vec(),
            classes,
            cross_entropy,
            right: probe(&known.all)?.right(&new.all, &truth)?,
            chance: chance(&truth)?,
        })
    }

    /// The entropy of the class over these held-out images in nats.
    fn entropy(&self, images: &[usize]) -> f64 {
        let mut counts = vec![0usize; self.classes];
        for i in images {
            counts[self.truth[*i] as usize] += 1;
        }
        let shares = counts.iter().map(|c| *c as f64 / images.len() as f64);
        shares.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    /// The information of each block, from these held-out images whose class has this entropy.
    fn information(&self, entropy: f64, images: &[usize]) -> Vec<f64> {
        let of = |nats: &Vec<f64>| {
            let sum: f64 = images.iter().map(|i| nats[*i]).sum();
            (entropy - sum / images.len() as f64).max(0.0)
        };
        self.cross_entropy.iter().map(of).collect()
    }
}

/// The information (blocks × factors) and the entropies, both from these held-out images only.
fn measured(readings: &[Reading], images: &[usize]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let blocks = readings.first().map_or(0, |r| r.cross_entropy.len());
    let mut information = vec![Vec::new(); blocks];
    let mut entropies = Vec::new();
    for reading in readings {
        let entropy = reading.entropy(images);
        let column = reading.information(entropy, images);
        for (row, value) in information.iter_mut().zip(column) {
            row.push(value);
        }
        entropies.push(entropy);
    }
    (information, entropies)
}

/// Divides each column by the factor's entropy.
fn shares(information: &[Vec<f64>], entropies: &[f64]) -> Vec<Vec<f64>> {
    let divided = |row: &Vec<f64>| -> Vec<f64> {
        let both = row.iter().zip(entropies);
        both.map(|(information, entropy)| information / entropy)
            .collect()
    };
    information.iter().map(divided).collect()
}

/// The output of e for a set of images: all factors, and each of them.
struct Parts {
    all: Tensor,
    blocks: Vec<Tensor>,
}

impl Parts {
    fn of(semantics: &Semantics, codes: &Tensor) -> Result<Self> {
        let e = semantics.e.detached();
        let all = e.forward(&codes.detach())?.0;
        let blocks = e.split(&all)?;
        Ok(Self { all, blocks })
    }
}

fn check_classes(
    what: &str,
    (codes, classes): (&Tensor, &BTreeMap<String, Vec<u32>>),
) -> Result<()> {
    let images = codes.dims().first().copied().unwrap_or(0);
    for (name, classes) in classes {
        if classes.len() != images {
            return Err(Error::shape(format!(
                "expected one class of {name:?} for each of {images} {what} images, found {}",
                classes.len()
            )));
        }
    }
    Ok(())
}
