use crate::metric::agreement;
use crate::ops::{Activation, Conv2d, ConvConfig, Init, Linear, Params, Rng};
use crate::train::Adam;
use crate::{Error, Result};
use candle_core::{D, Device, Tensor};

/// A small network (one hidden layer of 128) that tries to read a class from features: what it cannot
/// read on held-out features, they do not say in a way that a network of its size would find.
#[derive(Clone, Debug)]
pub struct Probe {
    hidden: Conv2d,
    out: Linear,
}

impl Probe {
    /// Trained on features (n, f) and classes u32 (n,) for `steps` steps of 128.
    ///
    /// # Errors
    /// [`Error::Invalid`] where features and classes differ in number.
    pub fn train(features: &Tensor, labels: &Tensor, steps: u64, seed: u64) -> Result<Self> {
        let (n, f) = match (features.dims(), labels.dims()) {
            (&[n, f], &[m]) if n == m && n > 0 => (n, f),
            (x, y) => {
                return Err(Error::invalid(format!(
                    "a probe needs features (n, f) and classes (n,), found {x:?} and {y:?}"
                )));
            }
        };
        let classes = labels.max(0)?.to_scalar::<u32>()? as usize + 1;
        let params = Params::new(seed);
        let leaky = ConvConfig {
            activation: Activation::Leaky(0.0),
            ..Default::default()
        };
        let probe = Self {
            hidden: Conv2d::new(f, 128, 1, leaky, Init::He, &params.root().pp("hidden"))?,
            out: Linear::new(128, classes, Init::FanIn, &params.root().pp("out"))?,
        };
        let (features, labels) = (features.detach(), labels.detach());
        let mut adam = Adam::new(params.trained())?.betas(0.9, 0.99);
        for step in 0..steps {
            let mut rng = Rng::at(seed, "probe", step);
            let chosen: Vec<u32> = (0..128).map(|_| rng.below(n) as u32).collect();
            let chosen = Tensor::new(chosen, &Device::Cpu)?;
            let logits = probe.logits(&features.index_select(&chosen, 0)?)?;
            let loss = candle_nn::loss::cross_entropy(&logits, &labels.index_select(&chosen, 0)?)?;
            let rate = 2e-3 * (1.0 - step as f64 / steps as f64);
            adam.step(&loss.backward()?, rate)?;
        }
        Ok(probe)
    }

    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden.forward(&features.unsqueeze(2)?.unsqueeze(3)?)?;
        self.out.forward(&hidden.flatten_from(1)?)
    }

    /// 1 where the probe reads the class of held-out features (n, f), 0 where it does not.
    pub fn right(&self, features: &Tensor, labels: &Tensor) -> Result<Vec<f64>> {
        agreement(&self.logits(&features.detach())?.argmax(D::Minus1)?, labels)
    }
}

/// The chance level of reading a class (u32, (n,)): the share of the most frequent one.
pub fn chance(labels: &Tensor) -> Result<f64> {
    let labels = labels.to_vec1::<u32>()?;
    let mut counts = std::collections::BTreeMap::new();
    for label in &labels {
        *counts.entry(label).or_insert(0usize) += 1;
    }
    Ok(counts.values().max().copied().unwrap_or(0) as f64 / labels.len().max(1) as f64)
}
