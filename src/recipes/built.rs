//! [`Built`], a network of a recipe: its loss in training, and its results on held-out images.

use super::VaeTraining;
use crate::autoencoder::{Autoencoder, ConvVae};
use crate::backbone::{Backbone, Mode, Network};
use crate::data::Batch;
use crate::metric::{IndependentClassifier, agreement, fine_structure, psnr};
use crate::ops::widened as wide;
use crate::ops::{PoolConfig, Rng, avg_pool2d};
use crate::train::Step;
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// A network that a [`Recipe`](super::Recipe) builds.
#[derive(Clone, Debug)]
pub enum Built {
    /// An encoder E and a decoder D.
    Autoencoder(Box<ConvVae>),
    /// A classifier of the dataset's classes.
    Classifier(Backbone),
    /// An independent classifier of the dataset's attributes.
    IndependentClassifier(IndependentClassifier),
}

impl Built {
    /// Computes the loss of a training step: of an autoencoder the plain loss of
    /// [`VaeTraining`](super::VaeTraining), of a classifier the cross-entropy, of an independent
    /// classifier [`IndependentClassifier::loss`] on images of which half are blurred and noisy. The images must be on the network's device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the network.
    pub fn step(&self, batch: &Batch, rng: &mut Rng) -> Result<Step> {
        let images = &batch.images;
        match self {
            Self::Autoencoder(vae) => VaeTraining::default().step(vae, images, None, None, rng),
            Self::Classifier(network) => {
                let logits = network.with_mode(Mode::Training).forward(images)?;
                let right = agreement(&logits.argmax(1)?, &batch.labels)?;
                let right = right.iter().sum::<f64>() / right.len().max(1) as f64;
                let labels = batch.labels.to_device(logits.device())?;
                let loss = candle_nn::loss::cross_entropy(&wide(&logits)?, &labels)?;
                Ok(Step::new(loss).with("accuracy", right))
            }
            Self::IndependentClassifier(independent) => {
                let loss = independent.loss(&roughen(images, rng)?, &batch.factors)?;
                Ok(Step::new(loss))
            }
        }
    }

    /// Measures the network on a batch: per figure, one value for each image that it applies to.
    /// [`Recipe::evaluate`](super::Recipe::evaluate) lists the figures.
    pub(super) fn measure(
        &self,
        independent: Option<&Self>,
        batch: &Batch,
    ) -> Result<Vec<(String, Vec<f64>)>> {
        let images = &batch.images;
        match (self, independent) {
            (Self::Classifier(network), _) => {
                let right = agreement(&network.classify(images)?, &batch.labels)?;
                Ok(vec![("accuracy".into(), right)])
            }
            (Self::IndependentClassifier(independent), _) => {
                Ok(each("accuracy", independent.right(images, &batch.factors)?))
            }
            (Self::Autoencoder(vae), Some(Self::Classifier(independent))) => {
                let decoded = vae.reconstruct(images)?;
                let (before, after) = (
                    independent.classify(images)?,
                    independent.classify(&decoded)?,
                );
                Ok(vec![
                    ("psnr".into(), psnr(images, &decoded)?),
                    ("fine structure".into(), fine(images, &decoded)?),
                    ("judge_agrees".into(), agreement(&after, &before)?),
                    ("judge_right".into(), agreement(&after, &batch.labels)?),
                ])
            }
            (Self::Autoencoder(vae), Some(Self::IndependentClassifier(independent))) => {
                let decoded = vae.reconstruct(images)?;
                let mut all = vec![
                    ("psnr".to_string(), psnr(images, &decoded)?),
                    ("fine structure".into(), fine(images, &decoded)?),
                ];
                all.extend(each(
                    "judge agrees",
                    independent.agreement(images, &decoded)?,
                ));
                let before = independent.right(images, &batch.factors)?;
                let after = independent.right(&decoded, &batch.factors)?;
                for (name, after) in &after {
                    // Only images whose original is classified correctly count, so attributes
                    // that the classifier cannot recognise at all have no influence.
                    let pairs = before[name].iter().zip(after);
                    let kept: Vec<f64> =
                        pairs.filter(|(b, _)| **b > 0.0).map(|(_, a)| *a).collect();
                    all.push((format!("judge keeps {name}"), kept.clone()));
                    all.push(("judge keeps".into(), kept));
                }
                all.extend(each("judge right", after));
                Ok(all)
            }
            (Self::Autoencoder(_), _) => Err(Error::unsupported(
                "evaluating an autoencoder needs an independent classifier: name its recipe in the plan (`Plan::autoencoder`)",
            )),
        }
    }

    /// Returns the encoder E and the decoder D.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the network is another one.
    pub fn into_autoencoder(self) -> Result<ConvVae> {
        match self {
            Self::Autoencoder(vae) => Ok(*vae),
            other => Err(other.is_not("an autoencoder")),
        }
    }

    /// Returns the classifier.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the network is another one.
    pub fn into_classifier(self) -> Result<Backbone> {
        match self {
            Self::Classifier(network) => Ok(network),
            other => Err(other.is_not("a classifier")),
        }
    }

    /// Returns the independent classifier.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the network is another one.
    pub fn into_independent(self) -> Result<IndependentClassifier> {
        match self {
            Self::IndependentClassifier(independent) => Ok(independent),
            other => Err(other.is_not("an independent classifier")),
        }
    }

    fn is_not(&self, expected: &str) -> Error {
        let found = match self {
            Self::Autoencoder(_) => "an autoencoder",
            Self::Classifier(_) => "a classifier",
            Self::IndependentClassifier(_) => "an independent classifier",
        };
        Error::unsupported(format!(
            "expected {expected}, found {found}: call the method of this kind of network"
        ))
    }
}

/// Returns the fine structure of each reconstruction, as a share of its original's.
fn fine(images: &Tensor, decoded: &Tensor) -> Result<Vec<f64>> {
    let (before, after) = (fine_structure(images)?, fine_structure(decoded)?);
    // An image of one colour has none.
    let share = |(a, b): (&f64, &f64)| a / b.max(1e-12);
    Ok(after.iter().zip(&before).map(share).collect())
}

/// Prepends the name of a figure to the names of the attributes.
fn each(figure: &str, values: BTreeMap<String, Vec<f64>>) -> Vec<(String, Vec<f64>)> {
    let values = values.into_iter();
    values
        .map(|(name, values)| (format!("{figure} {name}"), values))
        .collect()
}

/// Returns half of the batches unchanged and makes the other half blurred and noisy. The
/// independent classifier is applied to reconstructions, so it must not confuse a blurred edge
/// with another class.
pub(super) fn roughen(images: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    if rng.f32() < 0.5 {
        return Ok(images.clone());
    }
    let (blur, noise) = (f64::from(rng.f32()), f64::from(rng.range(0.0, 0.2)));
    // Edge pixels keep their value: a mean with zero padding would draw a dark frame.
    let soft = avg_pool2d(images, PoolConfig::new(3, 1))?
        .pad_with_same(2, 1, 1)?
        .pad_with_same(3, 1, 1)?;
    let grain = rng
        .normal(images.shape(), images.device())?
        .to_dtype(images.dtype())?;
    Ok(((images * (1.0 - blur))? + (soft * blur)? + (grain * noise)?)?)
}
