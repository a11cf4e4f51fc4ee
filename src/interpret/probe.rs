//! Probes: small networks that measure what can be read from features. [`Probe`] predicts a class,
//! [`Readout`] predicts numbers.

use super::free::variance_of;
use crate::metric::agreement;
use crate::ops::widened as wide;
use crate::ops::{
    Activation, Conv2d, ConvConfig, Init, Linear, Params, Placement, Rng, host, scalar, values,
};
use crate::train::Adam;
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// The number of training steps between two evaluations on the validation rows.
const CHECKED: u64 = 50;

/// Features whose standard deviation is below this fraction of the largest are divided by this
/// fraction of the largest.
const SMALLEST: f64 = 1e-3;

/// Standardized features are limited to this number of standard deviations.
const LIMIT: f64 = 10.0;

/// Settings for building and training a [`Probe`] or a [`Readout`]: a network with one hidden
/// layer, trained by Adam with a learning rate that decreases linearly to 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    /// The number of training steps.
    pub steps: u64,
    /// The number of rows in a batch.
    pub batch: usize,
    /// The width of the hidden layer.
    pub hidden: usize,
    /// Adam's initial learning rate.
    pub learning_rate: f64,
    /// The seed of the initial weights, of the batches and of the validation rows.
    pub seed: u64,
    /// The share of the rows that is not trained on but used for early stopping, in [0, 1). The
    /// loss on these rows is computed every 50 steps and after the last one, and the weights with
    /// the lowest loss are the result. With 0, the default, all rows are trained on, and the last
    /// weights are the result.
    pub validation: f64,
}

impl Default for ProbeConfig {
    /// Settings for some thousand rows: 1500 steps with 128 rows each, a width of 128, a learning
    /// rate of 0.002, and no early stopping.
    fn default() -> Self {
        Self {
            steps: 1500,
            batch: 128,
            hidden: 128,
            learning_rate: 2e-3,
            seed: 0,
            validation: 0.0,
        }
    }
}

impl ProbeConfig {
    /// Trains `layers` on random batches of the n rows of `features`. `stream` names the random
    /// numbers; `loss` maps the outputs and the chosen rows to a scalar, a mean over the rows.
    fn train(
        &self,
        layers: &Layers,
        params: &Params,
        features: &Tensor,
        stream: &str,
        loss: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        let (trained, validation) = self.divided(features.dim(0)?, stream)?;
        let mut adam = Adam::named(params.trained())?.betas(0.9, 0.99);
        let mut best: Option<(f64, Vec<Tensor>)> = None;
        for step in 0..self.steps {
            let mut rng = Rng::at(self.seed, stream, step);
            let chosen: Vec<u32> = (0..self.batch)
                .map(|_| trained[rng.below(trained.len())])
                .collect();
            let chosen = Tensor::new(chosen, features.device())?;
            let outputs = layers.forward(&features.index_select(&chosen, 0)?)?;
            let value = loss(&outputs, &chosen)?;
            let rate = self.learning_rate * (1.0 - step as f64 / self.steps as f64);
            adam.step_at(&value.backward()?, rate)?;
            let is_checked = (step + 1).is_multiple_of(CHECKED) || step + 1 == self.steps;
            if is_checked && !validation.is_empty() {
                let value = loss_over(layers, features, &validation, &loss)?;
                let is_lower = best.as_ref().is_none_or(|(lowest, _)| value < *lowest);
                if value.is_finite() && is_lower {
                    best = Some((value, copies(params)?));
                }
            }
        }
        if let Some((_, weights)) = best {
            for ((_, var), weight) in params.trained().iter().zip(&weights) {
                var.set(weight)?;
            }
        }
        Ok(())
    }

    /// The indices of the rows that are trained on, and of the validation rows.
    fn divided(&self, n: usize, stream: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        if !(0.0..1.0).contains(&self.validation) {
            return Err(Error::invalid(format!(
                "expected a share of validation rows in [0, 1), found {}",
                self.validation
            )));
        }
        if self.validation == 0.0 {
            return Ok(((0..n as u32).collect(), Vec::new()));
        }
        if n < 2 {
            return Err(Error::shape(format!(
                "expected at least two rows, one to train on and one for validation, found {n}: \
                 add rows, or set `validation` to 0"
            )));
        }
        let count = ((self.validation * n as f64).round() as usize).clamp(1, n - 1);
        let mut rows = Rng::named(self.seed, &format!("{stream} validation")).permutation(n);
        let trained = rows.split_off(count);
        Ok((trained, rows))
    }
}

/// The loss over all `rows`, a mean.
fn loss_over(
    layers: &Layers,
    features: &Tensor,
    rows: &[u32],
    loss: &impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<f64> {
    let mut sum = 0.0;
    for part in rows.chunks(1024) {
        let chosen = Tensor::new(part, features.device())?;
        let outputs = layers.forward(&features.index_select(&chosen, 0)?)?;
        sum += scalar(&loss(&outputs, &chosen)?)? * part.len() as f64;
    }
    Ok(sum / rows.len() as f64)
}

/// Copies of the trained parameters, in the order of [`Params::trained`].
fn copies(params: &Params) -> Result<Vec<Tensor>> {
    let trained = params.trained();
    let copies = trained
        .iter()
        .map(|(_, var)| Ok(var.as_tensor().copy()?.detach()));
    copies.collect()
}

/// A small network that predicts a class from features. If it fails on held-out features, the
/// features do not contain the class in a form that a network of this size can find.
///
/// ```
/// use invariances::prelude::*;
/// let features = Rng::new(0).normal((200, 2), &Device::Cpu)?;
/// let right_of_0 = features.narrow(1, 0, 1)?.squeeze(1)?.gt(0.0)?.to_dtype(DType::U32)?;
/// let config = ProbeConfig { steps: 100, ..Default::default() };
/// let probe = Probe::train(&features, &right_of_0, &config)?;
/// let right = probe.right(&features, &right_of_0)?;
/// assert!(right.iter().sum::<f64>() > 150.0);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Probe {
    layers: Layers,
}

impl Probe {
    /// Trains a probe on features (n, f) and classes u32 (n,), on the device and in the number
    /// type of the features (f32 for features in half precision).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit or there are no features; [`Error::Invalid`] for a
    /// share of validation rows outside of [0, 1).
    pub fn train(features: &Tensor, labels: &Tensor, config: &ProbeConfig) -> Result<Self> {
        Self::fit(features, labels, None, config)
    }

    /// Trains a probe as [`Probe::train`], for classes 0 … `classes` − 1. Some of them may be
    /// missing in the training rows and occur in held-out rows.
    ///
    /// # Errors
    /// As [`Probe::train`]; [`Error::Invalid`] for a class outside this range.
    pub fn train_classes(
        features: &Tensor,
        labels: &Tensor,
        classes: usize,
        config: &ProbeConfig,
    ) -> Result<Self> {
        Self::fit(features, labels, Some(classes), config)
    }

    fn fit(
        features: &Tensor,
        labels: &Tensor,
        classes: Option<usize>,
        config: &ProbeConfig,
    ) -> Result<Self> {
        match (features.dims(), labels.dims()) {
            (&[n, _], &[m]) if n == m && n > 0 => {}
            (x, y) => {
                return Err(Error::shape(format!(
                    "expected features of shape (n, f) and classes of shape (n,), found {x:?} and {y:?}"
                )));
            }
        }
        let features = &wide(&features.detach())?;
        let labels = labels.detach().to_device(features.device())?;
        let found = scalar(&labels.max(0)?)? as usize + 1;
        let classes = classes.unwrap_or(found);
        if found > classes {
            return Err(outside(classes, found - 1));
        }
        let params = Params::with(config.seed, features.dtype(), features.device());
        let layers = Layers::new(features, config.hidden, classes, &params)?;
        config.train(&layers, &params, features, "probe", |logits, chosen| {
            let labels = labels.index_select(chosen, 0)?;
            Ok(candle_nn::loss::cross_entropy(logits, &labels)?)
        })?;
        Ok(Self { layers })
    }

    /// For each held-out feature vector (n, f): 1 if the probe predicts its class, else 0.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shapes do not fit.
    pub fn right(&self, features: &Tensor, labels: &Tensor) -> Result<Vec<f64>> {
        let features = Placement::of(&self.layers.mean).take(&features.detach())?;
        agreement(&self.layers.forward(&features)?.argmax(D::Minus1)?, labels)
    }

    /// Computes the cross-entropy −ln q(class | features) in nats for each held-out feature vector
    /// (n, f) and its class u32 (n,), where q is the probe's softmax.
    ///
    /// Its mean is at least the conditional entropy of the class in expectation, for any probe. The
    /// entropy of the class minus this mean is therefore a lower bound on the mutual information
    /// of features and class, up to the sampling error of the held-out rows.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// let features = Tensor::zeros((400, 1), DType::F32, &Device::Cpu)?; // contain nothing
    /// let labels: Vec<u32> = (0..400).map(|i| u32::from(i % 4 == 0)).collect();
    /// let labels = Tensor::new(labels, &Device::Cpu)?;
    /// let config = ProbeConfig { steps: 300, learning_rate: 1e-2, ..Default::default() };
    /// let probe = Probe::train(&features, &labels, &config)?;
    /// let nats = probe.cross_entropy(&features, &labels)?;
    /// let entropy = -(0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
    /// assert!((nats.iter().sum::<f64>() / 400.0 - entropy).abs() < 0.02);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one class for each row; [`Error::Invalid`] for a class that
    /// the probe does not have.
    pub fn cross_entropy(&self, features: &Tensor, labels: &Tensor) -> Result<Vec<f64>> {
        let features = Placement::of(&self.layers.mean).take(&features.detach())?;
        let logits = host(&self.layers.forward(&features)?)?;
        let (n, classes) = logits.dims2()?;
        if labels.dims() != [n] {
            return Err(Error::shape(format!(
                "expected one class for each of {n} rows of features, found classes of shape {:?}",
                labels.dims()
            )));
        }
        let rows: Vec<Vec<f64>> = candle_nn::ops::log_softmax(&logits, D::Minus1)?.to_vec2()?;
        let each = rows.iter().zip(values(labels)?).map(|(row, label)| {
            let log = row.get(label as usize);
            log.map(|log| -log)
                .ok_or_else(|| outside(classes, label as usize))
        });
        each.collect()
    }
}

fn outside(classes: usize, found: usize) -> Error {
    Error::invalid(format!(
        "expected classes from 0 to {}, found {found}: a probe has the classes of its training \
         rows, or those of `Probe::train_classes`",
        classes.saturating_sub(1)
    ))
}

/// A small network that predicts numbers from features, such as the three components of a colour.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::interpret::Readout;
/// let features = Rng::new(0).normal((300, 2), &Device::Cpu)?;
/// let sum = features.sum_keepdim(1)?; // can be read from the features
/// let config = ProbeConfig { steps: 200, ..Default::default() };
/// let readout = Readout::train(&features.narrow(0, 0, 200)?, &sum.narrow(0, 0, 200)?, &config)?;
/// let (held_out, truth) = (features.narrow(0, 200, 100)?, sum.narrow(0, 200, 100)?);
/// let unread = readout.unread_share(&held_out, &truth)?;
/// assert!(unread.iter().sum::<f64>() / 100.0 < 0.5);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Readout {
    layers: Layers,
}

impl Readout {
    /// Trains a network on features (n, f) to predict `target` (n, components) with the smallest
    /// squared error, on the device and in the number type of the features (f32 for features in
    /// half precision).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit or there are no features; [`Error::Invalid`] for a
    /// share of validation rows outside of [0, 1).
    pub fn train(features: &Tensor, target: &Tensor, config: &ProbeConfig) -> Result<Self> {
        let components = match (features.dims(), target.dims()) {
            (&[n, _], &[m, components]) if n == m && n > 0 && components > 0 => components,
            (x, y) => {
                return Err(Error::shape(format!(
                    "expected features of shape (n, f) and a target of shape (n, components), found {x:?} and {y:?}"
                )));
            }
        };
        let features = &wide(&features.detach())?;
        let placement = Placement::of(features);
        let params = Params::with(config.seed, placement.dtype, &placement.device);
        let layers = Layers::new(features, config.hidden, components, &params)?;
        let target = placement.take(&target.detach())?;
        config.train(
            &layers,
            &params,
            features,
            "reading",
            |predicted, chosen| {
                let difference = (predicted - target.index_select(chosen, 0)?)?;
                Ok(difference.sqr()?.mean_all()?)
            },
        )?;
        Ok(Self { layers })
    }

    /// Predicts the target from features (n, f): (n, components), without a graph, on the device
    /// on which the network was trained.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shapes do not fit.
    pub fn predict(&self, features: &Tensor) -> Result<Tensor> {
        let features = Placement::of(&self.layers.mean).take(&features.detach())?;
        Ok(self.layers.forward(&features)?.detach())
    }

    /// The share of the variance of a held-out `target` (n, components) that cannot be read from
    /// the held-out `features` (n, f): the squared error of the prediction, divided by the
    /// variance of the target, one value per row.
    ///
    /// If the features are z and z leaves a factor free, the mean of this share is 1. It is
    /// therefore a check of [`free_share`](super::free_share) that needs neither t nor D.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shapes do not fit; [`Error::Invalid`] if the target does not vary.
    pub fn unread_share(&self, features: &Tensor, target: &Tensor) -> Result<Vec<f64>> {
        let target = Placement::of(&self.layers.mean).take(&target.detach())?;
        let error = (self.predict(features)? - &target)?.sqr()?.sum(1)?;
        let Some(variance) = variance_of(&target)? else {
            return Err(Error::invalid(
                "the held-out target does not vary: a share of its variance is not defined",
            ));
        };
        Ok(values(&error)?.into_iter().map(|e| e / variance).collect())
    }
}

/// The network of both: features are standardized by their mean and standard deviation over the
/// training rows, and pass one hidden layer.
#[derive(Clone, Debug)]
struct Layers {
    mean: Tensor,
    deviation: Tensor,
    hidden: Conv2d,
    out: Linear,
}

impl Layers {
    fn new(features: &Tensor, hidden: usize, outputs: usize, params: &Params) -> Result<Self> {
        let (n, inputs) = features.dims2()?;
        let deviation = match n {
            1 => Tensor::ones((1, inputs), features.dtype(), features.device())?,
            // A feature that hardly varies in the training rows, such as a unit that is active for
            // one of them, is not enlarged to the size of the others: on held-out rows it can be
            // a thousand times as large.
            _ => {
                let deviation = features.var_keepdim(0)?.sqrt()?;
                let largest = scalar(&deviation.max_all()?)?;
                deviation.maximum((SMALLEST * largest).max(1e-6))?
            }
        };
        let leaky = ConvConfig {
            activation: Activation::Leaky(0.0),
            ..Default::default()
        };
        let at = params.root();
        Ok(Self {
            mean: features.mean_keepdim(0)?.detach(),
            deviation: deviation.detach(),
            hidden: Conv2d::new(inputs, hidden, 1, leaky, Init::He, &at.pp("hidden"))?,
            out: Linear::new(hidden, outputs, Init::FanIn, &at.pp("out"))?,
        })
    }

    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let features = features
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.deviation)?
            .clamp(-LIMIT, LIMIT)?;
        let hidden = self.hidden.forward(&features.unsqueeze(2)?.unsqueeze(3)?)?;
        self.out.forward(&hidden.flatten_from(1)?)
    }
}

/// The chance level of predicting a class (u32, (n,)): the share of the most frequent class.
pub fn chance(labels: &Tensor) -> Result<f64> {
    let labels = values(labels)?;
    let mut counts = std::collections::BTreeMap::new();
    for label in &labels {
        *counts.entry(label.to_bits()).or_insert(0usize) += 1;
    }
    Ok(counts.values().max().copied().unwrap_or(0) as f64 / labels.len().max(1) as f64)
}
