//! The Adam optimiser, also as candle's `Optimizer`: settings, parameters and their moments.
//!
//! `step` has the rule and one pass over a parameter, its gradient and both moments; `in_backward`
//! updates the parameters of a flow within the backward pass; `state` saves and restores the
//! moments.

mod in_backward;
mod state;
mod step;

use crate::gpu::AdamWorkspace;
use crate::gradients::{failure, with_sink};
use crate::{Error, Result, candle_error};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use in_backward::InBackward;
use rayon::prelude::*;
use std::collections::HashMap;
use step::{CHUNK, Settings, norm, step_on_gpu};

/// The settings of [`Adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Learning rate of [`candle_nn::Optimizer::step`]; default 1e-3. [`Adam::step_at`] receives
    /// its own.
    pub learning_rate: f64,
    /// Decay rates of the moving averages of the gradient and of its square, both in [0, 1).
    /// Default (0.5, 0.9), as in the paper that this project reproduces; PyTorch's and candle's
    /// default is (0.9, 0.999).
    pub betas: (f64, f64),
    /// Term that is added to the square root of the second moment; default 1e-8.
    pub eps: f64,
    /// Decoupled weight decay: each step multiplies a parameter by
    /// 1 − learning rate × `weight_decay`. Default 0.
    pub weight_decay: f64,
    /// Maximum norm of all gradients together. Larger gradients are scaled down to this norm.
    /// Default `None`: no clipping.
    pub clip: Option<f64>,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: (0.5, 0.9),
            eps: 1e-8,
            weight_decay: 0.0,
            clip: None,
        }
    }
}

/// Adam (Kingma, Ba 2015, [arXiv 1412.6980](https://arxiv.org/abs/1412.6980)) with PyTorch's bias
/// correction. Optional: decoupled weight decay (AdamW,
/// [arXiv 1711.05101](https://arxiv.org/abs/1711.05101)) and clipping of the gradient's norm.
///
/// On the CPU a step is one pass over the parameter, the gradient and both moments. It uses all
/// threads and no temporary tensors, and the result does not depend on the number of threads. A
/// parameter without a gradient does not change, and its moments do not change.
///
/// It is a [`candle_nn::Optimizer`]: with this trait in scope, `new`, `step`, `backward_step` and
/// `set_learning_rate` work as those of candle's `AdamW`.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use invariances_ops::{Adam, AdamConfig};
/// let x = Var::new(&[3f32], &Device::Cpu)?;
/// let config = AdamConfig { learning_rate: 0.1, ..Default::default() };
/// let mut adam = Adam::new(vec![x.clone()], config)?;
/// adam.backward_step(&x.sqr()?.sum_all()?)?;
/// assert!(x.to_vec1::<f32>()?[0] < 3.0);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// [`Adam::named`] keeps the names of the parameters, which a checkpoint of the optimiser needs
/// ([`Adam::state`]). [`Adam::step_at`] takes the learning rate of each step, e.g. from a
/// schedule.
///
/// ```
/// use candle_core::{Device, Var};
/// use invariances_ops::Adam;
/// let x = Var::new(&[3f32], &Device::Cpu)?;
/// let mut adam = Adam::named(vec![("x".into(), x.clone())])?;
/// for n in 0..300 {
///     let loss = x.sqr()?.sum_all()?;
///     // Adam's steps have about the length of the learning rate, even where the loss is flat,
///     // so the learning rate has to fall for the parameter to converge.
///     let learning_rate = 0.1 * (1.0 - n as f64 / 300.0);
///     adam.step_at(&loss.backward()?, learning_rate)?;
/// }
/// assert!(x.to_vec1::<f32>()?[0].abs() < 1e-2);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    parameters: Vec<Parameter>,
    count: usize,
    gpu: AdamWorkspace,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    var: Var,
    /// Number of steps in which this parameter had a gradient.
    steps: u64,
    moments: Moments,
}

/// Moving averages of the gradient and of its square.
#[derive(Debug)]
enum Moments {
    F32(Vec<f32>, Vec<f32>),
    F64(Vec<f64>, Vec<f64>),
    /// Moments on another device or of another floating-point type; f32 for parameters in half
    /// precision.
    Other(Tensor, Tensor),
}

impl Adam {
    /// Creates an optimiser for these parameters, with the settings of [`AdamConfig::default`].
    /// [`Params::trained`](crate::Params::trained) returns the parameters of a network.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a variable of an integer type.
    pub fn named(parameters: Vec<(String, Var)>) -> Result<Self> {
        Self::with_config(parameters, AdamConfig::default())
    }

    /// Creates an optimiser for these parameters with these settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a variable of an integer type.
    pub fn with_config(parameters: Vec<(String, Var)>, config: AdamConfig) -> Result<Self> {
        let mut count = 0;
        let parameters: Result<Vec<_>> = parameters
            .into_iter()
            .map(|(name, var)| {
                let n = var.elem_count();
                count += n;
                let moments = match (var.dtype(), var.device()) {
                    (DType::F32, Device::Cpu) => Moments::F32(vec![0.0; n], vec![0.0; n]),
                    (DType::F64, Device::Cpu) => Moments::F64(vec![0.0; n], vec![0.0; n]),
                    (d, _) if d.is_float() => {
                        // In half precision ε and small squares would round to 0.
                        let wide = match d {
                            DType::F16 | DType::BF16 => DType::F32,
                            other => other,
                        };
                        let zeros = || Tensor::zeros(var.shape(), wide, var.device());
                        Moments::Other(zeros()?, zeros()?)
                    }
                    (d, _) => {
                        return Err(Error::invalid(format!(
                            "expected parameters of a floating-point type, found {name} of type {d:?}"
                        )));
                    }
                };
                Ok(Parameter {
                    name,
                    var,
                    steps: 0,
                    moments,
                })
            })
            .collect();
        Ok(Self {
            config,
            parameters: parameters?,
            count,
            gpu: AdamWorkspace::default(),
        })
    }

    /// Sets the decay rates of the moving averages of the gradient and of its square, both in
    /// [0, 1).
    pub fn betas(mut self, first: f64, second: f64) -> Self {
        self.config.betas = (first, second);
        self
    }

    /// Sets ε, which is added to the square root of the second moment.
    pub fn eps(mut self, eps: f64) -> Self {
        self.config.eps = eps;
        self
    }

    /// Sets the decoupled weight decay: each step multiplies a parameter by
    /// 1 − learning rate × `weight_decay`.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.config.weight_decay = weight_decay;
        self
    }

    /// Sets the maximum norm of all gradients together. Larger gradients are scaled down to this
    /// norm.
    pub fn clip(mut self, norm: Option<f64>) -> Self {
        self.config.clip = norm;
        self
    }

    /// Returns the settings.
    pub fn config(&self) -> &AdamConfig {
        &self.config
    }

    /// Returns the names of the parameters that never had a gradient, so no step has changed them
    /// yet.
    pub fn without_gradient(&self) -> Vec<String> {
        let without = self.parameters.iter().filter(|p| p.steps == 0);
        without.map(|p| p.name.clone()).collect()
    }

    /// Updates every parameter with its gradient and this learning rate.
    /// [`candle_nn::Optimizer::step`] is the same with the learning rate of the settings.
    ///
    /// # Errors
    /// [`Error::Diverged`] if clipping is on and the norm of the gradients is not finite; no
    /// parameter has changed then. On a GPU the norm is not read back: [`Adam::has_diverged`] says
    /// whether it was ever not finite, and no parameter has changed since.
    pub fn step_at(&mut self, grads: &GradStore, learning_rate: f64) -> Result<()> {
        let gradients: Vec<Option<Tensor>> = self
            .parameters
            .iter()
            .map(|p| {
                let grad = grads.get(p.var.as_tensor());
                grad.map(|g| Ok(g.detach().contiguous()?)).transpose()
            })
            .collect::<Result<_>>()?;
        let on_gpu = self.parameters.iter().all(Parameter::is_on_gpu);
        if on_gpu {
            let settings = self.settings(learning_rate, 1.0);
            let pairs = self.parameters.iter_mut().zip(&gradients);
            let pairs = pairs.filter_map(|(p, g)| Some((p, g.as_ref()?)));
            return step_on_gpu(&mut self.gpu, pairs, &settings, self.config.clip);
        }
        let scale = match self.config.clip {
            None => 1.0,
            Some(most) => {
                let norm = norm(&gradients)?;
                if !norm.is_finite() {
                    return Err(Error::Diverged(format!(
                        "the norm of the gradient is {norm}"
                    )));
                }
                // The constant is that of PyTorch's `clip_grad_norm_`.
                (most / (norm + 1e-6)).min(1.0)
            }
        };
        let settings = self.settings(learning_rate, scale);
        let update = |(p, g): (&mut Parameter, &Option<Tensor>)| -> Result<()> {
            match g {
                Some(g) => p.step(g, &settings),
                None => Ok(()),
            }
        };
        // Other devices run in parallel by themselves.
        let on_cpu = self.parameters.iter().all(|p| p.var.device().is_cpu());
        if self.count < CHUNK || !on_cpu {
            let mut pairs = self.parameters.iter_mut().zip(&gradients);
            pairs.try_for_each(update)
        } else {
            let pairs = self.parameters.par_iter_mut().zip(&gradients);
            pairs.try_for_each(update)
        }
    }

    /// Returns whether the norm of clipped gradients on a GPU was ever not finite. Waits for the
    /// GPU.
    pub fn has_diverged(&self) -> Result<bool> {
        self.gpu.diverged()
    }

    fn settings(&self, learning_rate: f64, scale: f64) -> Settings {
        Settings {
            betas: self.config.betas,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            learning_rate,
            scale,
        }
    }

    /// Computes the gradients of `loss` and updates the parameters in one pass. The parameters of
    /// a flow that recomputes its activations (`Memory::Constant` of `invariances`) are updated
    /// block by block, as soon as the backward pass has their gradients, so the whole gradient is
    /// never in memory. All other parameters are updated afterwards. The result equals that of
    /// [`Adam::step_at`] bit for bit.
    ///
    /// If a flow is used more than once within `loss`, its gradients are summed first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if clipping is on: it needs the norm of the whole gradient before the
    /// first update. After any other error some parameters may have changed and others not.
    pub fn step_in_backward(&mut self, loss: &Tensor, learning_rate: f64) -> Result<()> {
        if self.config.clip.is_some() {
            return Err(Error::invalid(
                "clipping needs the whole gradient before the first parameter changes: leave out `clip`, or use `step_at`",
            ));
        }
        let sink = InBackward {
            settings: self.settings(learning_rate, 1.0),
            places: self
                .parameters
                .iter()
                .enumerate()
                .map(|(i, p)| (p.var.as_tensor().id(), i))
                .collect(),
            gradients: HashMap::new(),
            done: vec![false; self.parameters.len()],
            parameters: std::mem::take(&mut self.parameters),
            gpu: std::mem::take(&mut self.gpu),
        };
        let (mut sink, store) = with_sink(sink, || loss.backward());
        let rest = store.map_err(failure).and_then(|store| sink.rest(&store));
        self.parameters = sink.parameters;
        self.gpu = sink.gpu;
        rest
    }
}

/// `new` names the parameters by their index and leaves out variables of integer types, as candle's
/// optimisers do. Use [`Adam::with_config`] if the state is saved.
impl candle_nn::Optimizer for Adam {
    type Config = AdamConfig;

    fn new(vars: Vec<Var>, config: AdamConfig) -> candle_core::Result<Self> {
        let trainable = vars.into_iter().filter(|v| v.dtype().is_float());
        let named = trainable.enumerate().map(|(n, v)| (n.to_string(), v));
        Self::with_config(named.collect(), config).map_err(candle_error)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.step_at(grads, self.config.learning_rate)
            .map_err(candle_error)
    }

    fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Optimizer;

    fn start() -> Result<Vec<Var>> {
        let values = crate::Rng::new(3).normal((2, 5), &Device::Cpu)?;
        Ok(vec![
            Var::from_tensor(&values)?,
            Var::new(&[1f64, -2.0], &Device::Cpu)?,
        ])
    }

    fn loss(vars: &[Var]) -> Result<Tensor> {
        let first = vars[0].sqr()?.sum_all()?.to_dtype(DType::F64)?;
        Ok((first + vars[1].sqr()?.sqr()?.sum_all()?)?)
    }

    fn bits(vars: &[Var]) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        for var in vars {
            all.extend(crate::values(var)?.iter().map(|v| v.to_bits()));
        }
        Ok(all)
    }

    #[test]
    fn the_trait_of_candle_takes_the_same_steps() -> Result<()> {
        let config = AdamConfig {
            learning_rate: 0.02,
            betas: (0.9, 0.99),
            eps: 1e-6,
            weight_decay: 0.1,
            clip: Some(0.5),
        };
        let (ours, candles) = (start()?, start()?);
        let named = ours
            .iter()
            .enumerate()
            .map(|(n, v)| (n.to_string(), v.clone()));
        let mut inherent = Adam::named(named.collect())?
            .betas(0.9, 0.99)
            .eps(1e-6)
            .weight_decay(0.1)
            .clip(Some(0.5));
        let mut by_trait = Adam::new(candles.clone(), config)?;
        for step in 0..5 {
            let rate = if step < 3 { 0.02 } else { 0.005 };
            by_trait.set_learning_rate(rate);
            assert_eq!(by_trait.learning_rate(), rate);
            inherent.step_at(&loss(&ours)?.backward()?, rate)?;
            match step % 2 {
                0 => by_trait.backward_step(&loss(&candles)?)?,
                _ => by_trait.step(&loss(&candles)?.backward()?)?,
            }
            assert_eq!(bits(&ours)?, bits(&candles)?);
        }
        assert_ne!(bits(&ours)?, bits(&start()?)?);
        Ok(())
    }

    #[test]
    fn the_trait_leaves_out_integers_and_reports_divergence() -> Result<()> {
        let mut vars = start()?;
        vars.insert(0, Var::new(&[1u32], &Device::Cpu)?);
        let config = AdamConfig {
            clip: Some(1.0),
            ..Default::default()
        };
        let mut adam = Adam::new(vars.clone(), config)?;
        assert_eq!(adam.without_gradient(), ["0", "1"]);
        assert_eq!(adam.config(), &config);
        let loss = vars[1].affine(f64::NAN, 0.0)?.sum_all()?;
        let error = adam.backward_step(&loss).unwrap_err();
        assert!(error.to_string().contains("norm"), "{error}");
        Ok(())
    }
}
