//! Probes: small networks that measure how well a class or a factor can be read from features.

use crate::metric::agreement;
use crate::ops::widened as wide;
use crate::ops::{
    Activation, Conv2d, ConvConfig, Init, Linear, Params, Placement, Rng, scalar, values,
};
use crate::train::Adam;
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// A small network (one hidden layer of width 128) that predicts a class from features. If it
/// fails on held-out features, the features do not contain the class in a form that a network of
/// this size can find.
#[derive(Clone, Debug)]
pub struct Probe {
    mean: Tensor,
    deviation: Tensor,
    hidden: Conv2d,
    out: Linear,
}

impl Probe {
    /// Trains a probe on features (n, f) and classes u32 (n,) for `steps` steps with batch
    /// size 128, on the device and in the number type of the features (f32 for features in half
    /// precision).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit or there are no features.
    pub fn train(features: &Tensor, labels: &Tensor, steps: u64, seed: u64) -> Result<Self> {
        let n = match (features.dims(), labels.dims()) {
            (&[n, _], &[m]) if n == m && n > 0 => n,
            (x, y) => {
                return Err(Error::shape(format!(
                    "expected features of shape (n, f) and classes of shape (n,), found {x:?} and {y:?}"
                )));
            }
        };
        let features = &wide(&features.detach())?;
        let labels = labels.detach().to_device(features.device())?;
        let classes = scalar(&labels.max(0)?)? as usize + 1;
        let params = Params::with(seed, features.dtype(), features.device());
        let probe = Self::new(features, classes, &params)?;
        let mut adam = Adam::named(params.trained())?.betas(0.9, 0.99);
        for step in 0..steps {
            let mut rng = Rng::at(seed, "probe", step);
            let chosen: Vec<u32> = (0..128).map(|_| rng.below(n) as u32).collect();
            let chosen = Tensor::new(chosen, features.device())?;
            let logits = probe.logits(&features.index_select(&chosen, 0)?)?;
            let loss = candle_nn::loss::cross_entropy(&logits, &labels.index_select(&chosen, 0)?)?;
            let rate = 2e-3 * (1.0 - step as f64 / steps as f64);
            adam.step_at(&loss.backward()?, rate)?;
        }
        Ok(probe)
    }

    fn new(features: &Tensor, outputs: usize, params: &Params) -> Result<Self> {
        let (n, inputs) = features.dims2()?;
        let deviation = match n {
            1 => Tensor::ones((1, inputs), features.dtype(), features.device())?,
            // A feature that never varies is zero after centring, and remains zero when divided
            // by a small number.
            _ => features.var_keepdim(0)?.sqrt()?.maximum(1e-6)?,
        };
        let leaky = ConvConfig {
            activation: Activation::Leaky(0.0),
            ..Default::default()
        };
        let at = params.root();
        Ok(Self {
            mean: features.mean_keepdim(0)?.detach(),
            deviation: deviation.detach(),
            hidden: Conv2d::new(inputs, 128, 1, leaky, Init::He, &at.pp("hidden"))?,
            out: Linear::new(128, outputs, Init::FanIn, &at.pp("out"))?,
        })
    }

    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let features = features
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.deviation)?;
        let hidden = self.hidden.forward(&features.unsqueeze(2)?.unsqueeze(3)?)?;
        self.out.forward(&hidden.flatten_from(1)?)
    }

    /// For each held-out feature vector (n, f): 1 if the probe predicts its class, else 0.
    pub fn right(&self, features: &Tensor, labels: &Tensor) -> Result<Vec<f64>> {
        let features = Placement::of(&self.mean).take(&features.detach())?;
        agreement(&self.logits(&features)?.argmax(D::Minus1)?, labels)
    }
}

/// The share of the variance of `target` (n, components) that cannot be read from `features` (n,
/// f). A network with one hidden layer of width 128 is trained for `steps` steps with batch size
/// 128. The share is its squared error on held-out features, divided by the variance of the held-
/// out target, one value per held-out row. If z leaves a factor free, the mean of this share is 1
/// as well. It is therefore a check of [`free_share`](super::free_share) that needs neither t nor
/// D. The network is on the device of `features`; the other tensors are moved there.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit; [`Error::Invalid`] if the held-out target does not
/// vary.
pub fn unread_share(
    (features, target): (&Tensor, &Tensor),
    (held_out, held_out_target): (&Tensor, &Tensor),
    steps: u64,
    seed: u64,
) -> Result<Vec<f64>> {
    let (n, components) = match (features.dims(), target.dims()) {
        (&[n, _], &[m, components]) if n == m && n > 0 && components > 0 => (n, components),
        (x, y) => {
            return Err(Error::shape(format!(
                "expected features of shape (n, f) and a target of shape (n, components), found {x:?} and {y:?}"
            )));
        }
    };
    let features = &wide(&features.detach())?;
    let placement = Placement::of(features);
    let params = Params::with(seed, placement.dtype, &placement.device);
    let probe = Probe::new(features, components, &params)?;
    let target = placement.take(&target.detach())?;
    let mut adam = Adam::named(params.trained())?.betas(0.9, 0.99);
    for step in 0..steps {
        let mut rng = Rng::at(seed, "reading", step);
        let chosen: Vec<u32> = (0..128).map(|_| rng.below(n) as u32).collect();
        let chosen = Tensor::new(chosen, features.device())?;
        let predicted = probe.logits(&features.index_select(&chosen, 0)?)?;
        let loss = (predicted - target.index_select(&chosen, 0)?)?
            .sqr()?
            .mean_all()?;
        adam.step_at(&loss.backward()?, 2e-3 * (1.0 - step as f64 / steps as f64))?;
    }
    let held_out = placement.take(&held_out.detach())?;
    let held_out_target = placement.take(&held_out_target.detach())?;
    let error = (probe.logits(&held_out)? - &held_out_target)?
        .sqr()?
        .sum(1)?;
    let variance = scalar(&held_out_target.var(0)?.sum_all()?)?;
    if variance.is_nan() || variance <= 0.0 {
        return Err(Error::invalid(
            "the held-out target does not vary: a share of its variance is not defined",
        ));
    }
    Ok(values(&error)?.into_iter().map(|e| e / variance).collect())
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
