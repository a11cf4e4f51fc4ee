//! [`Params`] as the parameters of candle's models: [`Params::builder`] returns a
//! `candle_nn::VarBuilder`.

use super::{Draw, Params, Scope};
use crate::{Error, Result, candle_error};
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;

impl Params {
    /// Returns a `VarBuilder` that creates the parameters of a model of candle-nn or
    /// candle-transformers in this set, as `VarBuilder::from_varmap` does in a `VarMap`.
    ///
    /// A parameter starts with values of the distribution that the model states, drawn by the
    /// generator of its name, so a seed gives the same model everywhere. The model shares its
    /// tensors with this set: training, [`Params::load`] and [`Params::set_all`] change the model.
    /// `running_mean` and `running_var` of batch norm are buffers, not trained parameters.
    ///
    /// A parameter that already exists must have the shape, number type and device that the model
    /// asks for: a converted copy would not see later changes.
    ///
    /// candle-nn's `LayerNorm`, `RmsNorm` and `softmax_last_dim` have no backward pass: no gradient
    /// reaches what is before them in a model. [`LayerNorm`](crate::LayerNorm) and
    /// [`softmax`](crate::softmax) have one.
    /// [`Adam::without_gradient`](crate::Adam::without_gradient) lists the parameters that no
    /// gradient has reached.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_nn::{Activation, Module, Optimizer, linear, seq};
    /// use invariances_ops::{Adam, AdamConfig, Params, Rng, scalar};
    /// let params = Params::new(0);
    /// let at = params.builder();
    /// let model = seq()
    ///     .add(linear(4, 16, at.pp("hidden"))?)
    ///     .add(Activation::Gelu)
    ///     .add(linear(16, 1, at.pp("out"))?);
    /// assert_eq!(params.names(), ["hidden.bias", "hidden.weight", "out.bias", "out.weight"]);
    ///
    /// let x = Rng::new(1).normal((32, 4), &Device::Cpu)?;
    /// let loss = || model.forward(&x)?.sqr()?.mean_all();
    /// let gradient = loss()?.backward()?;
    /// assert!(gradient.get(params.var("hidden.weight")?.as_tensor()).is_some());
    ///
    /// let before = scalar(&loss()?)?;
    /// let config = AdamConfig { learning_rate: 0.01, ..Default::default() };
    /// let mut adam = Adam::new(params.vars(), config)?;
    /// for _ in 0..3 {
    ///     adam.backward_step(&loss()?)?;
    /// }
    /// assert!(scalar(&loss()?)? < before);
    /// # Ok::<(), invariances_ops::Error>(())
    /// ```
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// Returns the parameters that training changes (not the buffers), in the order of their
    /// names, as [`candle_nn::Optimizer::new`] takes them.
    pub fn vars(&self) -> Vec<Var> {
        self.trained().into_iter().map(|(_, var)| var).collect()
    }

    /// Checks that a parameter can be used with this number type on this device as it is.
    fn check_placement(
        &self,
        name: &str,
        dtype: DType,
        found: DType,
        device: &Device,
    ) -> Result<()> {
        if dtype != found {
            return Err(Error::shape(format!(
                "the model asks for {name} of type {dtype:?}, but the parameter exists with {found:?}: create the model in {found:?}, or its parameters by `Params::with(seed, DType::{dtype:?}, device)`"
            )));
        }
        if !device.same_device(&self.device) {
            return Err(Error::invalid(format!(
                "the model asks for {name} on {:?}, but the parameters are on {:?}: create them there with `Params::with`",
                device.location(),
                self.device.location()
            )));
        }
        Ok(())
    }
}

impl Scope {
    /// Returns a `VarBuilder` at this place; see [`Params::builder`].
    pub fn builder(&self) -> VarBuilder<'static> {
        let root = self.params.builder();
        match self.prefix.as_str() {
            "" => root,
            prefix => root.set_prefix(prefix),
        }
    }
}

impl Draw {
    /// Returns the distribution of a parameter of this shape, as [`candle_nn::Init::var`] has it.
    fn of_candle(init: candle_nn::Init, shape: &Shape) -> Self {
        match init {
            candle_nn::Init::Const(value) => Self::Const(value),
            candle_nn::Init::Randn { mean, stdev } => Self::Normal {
                mean,
                deviation: stdev,
            },
            candle_nn::Init::Uniform { lo, up } => Self::Uniform { low: lo, high: up },
            candle_nn::Init::Kaiming {
                dist,
                fan,
                non_linearity,
            } => {
                let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                let bound = 3f64.sqrt() * deviation;
                match dist {
                    NormalOrUniform::Normal => Self::Normal {
                        mean: 0.0,
                        deviation,
                    },
                    NormalOrUniform::Uniform => Self::Uniform {
                        low: -bound,
                        high: bound,
                    },
                }
            }
        }
    }
}

/// Returns whether this is the name of a running statistic of batch norm, which no gradient
/// reaches.
fn is_statistic(name: &str) -> bool {
    let last = name.rsplit('.').next();
    matches!(
        last,
        Some("running_mean" | "running_var" | "num_batches_tracked")
    )
}

/// What a `VarBuilder` asks for. Names are whole paths.
impl SimpleBackend for Params {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        // Checked first: nothing is created for a model on another device.
        self.check_placement(name, dtype, dtype, device)
            .map_err(candle_error)?;
        let draw = Draw::of_candle(init, &shape);
        let trained = dtype.is_float() && !is_statistic(name);
        let var = self
            .entry(name.to_owned(), (shape, dtype), draw, trained)
            .map_err(candle_error)?;
        self.check_placement(name, dtype, var.dtype(), device)
            .map_err(candle_error)?;
        Ok(var.into_inner())
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let found = self.lock().get(name).map(|entry| entry.var.clone());
        let Some(var) = found else {
            return Err(candle_core::Error::CannotFindTensor { path: name.into() }.bt());
        };
        self.check_placement(name, dtype, var.dtype(), device)
            .map_err(candle_error)?;
        Ok(var.into_inner())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Rng, values};
    use candle_nn::{Module, ModuleT};

    #[test]
    fn layers_of_candle_have_seeded_parameters_that_gradients_reach() -> Result<()> {
        let build = |seed: u64, reversed: bool| -> Result<_> {
            let params = Params::new(seed);
            let at = params.builder().pp("net");
            let conv = || candle_nn::conv2d(3, 8, 3, Default::default(), at.pp("conv"));
            let linear = || candle_nn::linear(8 * 4, 5, at.pp("fc"));
            let (conv, linear) = if reversed {
                let linear = linear()?;
                (conv()?, linear)
            } else {
                (conv()?, linear()?)
            };
            Ok((params, conv, linear))
        };
        let (params, conv, linear) = build(4, false)?;
        let names = ["conv.bias", "conv.weight", "fc.bias", "fc.weight"];
        assert_eq!(params.names(), names.map(|n| format!("net.{n}")));
        assert_eq!(params.digest()?, build(4, true)?.0.digest()?);
        assert_ne!(params.digest()?, build(5, false)?.0.digest()?);

        let x = Rng::new(0).normal((2, 3, 4, 4), &Device::Cpu)?;
        let y = |x: &Tensor| linear.forward(&conv.forward(x)?.flatten_from(1)?);
        let gradients = y(&x)?.sqr()?.sum_all()?.backward()?;
        for var in params.vars() {
            let gradient = gradients.get(&var).expect("a gradient");
            assert!(values(gradient)?.iter().any(|g| *g != 0.0));
        }
        // The model and the set share the values.
        let before = values(&y(&x)?)?;
        params.set_all(&build(5, false)?.0.tensors())?;
        assert_ne!(values(&y(&x)?)?, before);
        Ok(())
    }

    #[test]
    fn the_hints_of_candle_are_their_distributions() -> Result<()> {
        use candle_nn::init::{FanInOut, NonLinearity};
        let kaiming = |dist, fan| candle_nn::Init::Kaiming {
            dist,
            fan,
            non_linearity: NonLinearity::ReLU,
        };
        let shape = Shape::from((64, 8, 3, 3));
        let of = |init| Draw::of_candle(init, &shape);
        let deviation = 2f64.sqrt() / 72f64.sqrt();
        assert_eq!(
            of(kaiming(NormalOrUniform::Normal, FanInOut::FanIn)),
            Draw::Normal {
                mean: 0.0,
                deviation
            }
        );
        let bound = 3f64.sqrt() * (2f64.sqrt() / 576f64.sqrt());
        assert_eq!(
            of(kaiming(NormalOrUniform::Uniform, FanInOut::FanOut)),
            Draw::Uniform {
                low: -bound,
                high: bound
            }
        );
        let at = Params::new(0).builder();
        let uniform = candle_nn::Init::Uniform { lo: 2.0, up: 3.0 };
        let uniform = values(&at.get_with_hints(500, "uniform", uniform)?)?;
        assert!(uniform.iter().all(|v| (2.0..=3.0).contains(v)));
        let normal = candle_nn::Init::Randn {
            mean: 5.0,
            stdev: 0.1,
        };
        let normal = values(&at.get_with_hints(500, "normal", normal)?)?;
        let mean = normal.iter().sum::<f64>() / 500.0;
        assert!((mean - 5.0).abs() < 0.05, "{mean}");
        let constant = candle_nn::Init::Const(0.5);
        let constant = values(&at.get_with_hints(3, "constant", constant)?)?;
        assert_eq!(constant, [0.5; 3]);
        Ok(())
    }

    #[test]
    fn a_request_that_does_not_fit_is_an_error() -> Result<()> {
        let params = Params::new(0);
        let var = params.root().pp("fc").get((2, 3), "weight", Init::He)?;
        let at = params.root().pp("fc").builder();
        assert!(at.contains_tensor("weight") && !at.contains_tensor("bias"));
        let same = at.get((2, 3), "weight")?;
        assert_eq!(same.id(), var.id());
        assert_eq!(at.get_unchecked("weight")?.id(), var.id());
        let error = at.get((3, 2), "weight").unwrap_err().to_string();
        assert!(error.contains("fc.weight"), "{error}");
        let error = at.to_dtype(DType::F64).get((2, 3), "weight").unwrap_err();
        assert!(error.to_string().contains("F64"), "{error}");
        assert!(at.get_unchecked("bias").is_err());
        assert_eq!(params.names(), ["fc.weight"]);
        Ok(())
    }

    #[test]
    fn running_statistics_are_buffers_that_training_mode_updates() -> Result<()> {
        let params = Params::new(0);
        let norm = candle_nn::batch_norm(2, 1e-5, params.builder().pp("norm"))?;
        let trained: Vec<String> = params.trained().into_iter().map(|(n, _)| n).collect();
        assert_eq!(trained, ["norm.bias", "norm.weight"]);
        let x = Rng::new(0).uniform(1.0, 2.0, (4, 2, 3, 3), &Device::Cpu)?;
        norm.forward_t(&x, true)?;
        let mean = values(params.var("norm.running_mean")?.as_tensor())?;
        assert!(mean.iter().all(|m| (0.1..0.2).contains(m)), "{mean:?}");
        Ok(())
    }

    #[test]
    fn parameters_of_another_type_are_created_in_it() -> Result<()> {
        let params = Params::with(0, DType::BF16, &Device::Cpu);
        let linear = candle_nn::linear_no_bias(4, 2, params.builder())?;
        assert_eq!(linear.weight().dtype(), DType::BF16);
        let positions = params.builder().get_with_hints_dtype(
            3,
            "ids",
            candle_nn::Init::Const(1.0),
            DType::U32,
        )?;
        assert_eq!(positions.to_vec1::<u32>()?, [1, 1, 1]);
        assert_eq!(params.vars().len(), 1);
        Ok(())
    }
}
