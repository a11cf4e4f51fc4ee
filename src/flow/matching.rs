//! [`FlowMatching`]: a continuous flow, the solution of an ordinary differential equation.

use super::velocity::{Velocity, angle};
use super::{
    ActNorm, Condition, Embedder, Flow, check_batch, check_finite, normal, required, rows,
};
use crate::ops::{Placement, Rng, Scope, repeated};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// The name of the network in error messages.
const NAME: &str = "a flow that is trained by flow matching";

/// The configuration of a [`FlowMatching`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowMatchingConfig {
    /// Dimension of the code z̄.
    pub dim: usize,
    /// The shape of z.
    pub condition: Condition,
    /// Width of the velocity's residual blocks.
    pub hidden: usize,
    /// Number of residual blocks.
    pub blocks: usize,
    /// Number of widths in the embedder of a vector, input and output included.
    pub conditioning_depth: usize,
    /// Number of steps of the solver. Each evaluates the velocity twice.
    pub steps: usize,
}

impl FlowMatchingConfig {
    /// Returns a configuration for some minutes of training on two CPU cores: 3 blocks of width
    /// 256, solved in 16 steps.
    pub fn new(dim: usize, condition: Condition) -> Self {
        Self {
            dim,
            condition,
            hidden: 256,
            blocks: 3,
            conditioning_depth: 4,
            steps: 16,
        }
    }
}

/// A continuous normalizing flow: v is the end of the path that starts at z̄ and follows a learned
/// velocity, dx/dθ = u(x, θ | z), from θ = π/2 to 0.
///
/// The velocity is trained without solving the equation, by flow matching ([`Flow::loss`]): on the
/// path from noise ε to a code z̄, x = cos θ·ε + sin θ·z̄, it predicts dx/dθ = cos θ·z̄ − sin θ·ε
/// (Lipman et al. 2023, [arXiv 2210.02747](https://arxiv.org/abs/2210.02747); the path is the
/// trigonometric one of Albergo, Vanden-Eijnden 2023,
/// [arXiv 2209.15571](https://arxiv.org/abs/2209.15571)). Codes are first scaled to mean 0 and
/// standard deviation 1 by constants from the first batch, so that x has these on the whole path.
///
/// Heun's method solves the equation, in [`FlowMatchingConfig::steps`] steps in both directions.
/// The inverse is therefore exact only in the limit of many steps;
/// [`FlowMatching::round_trip_error`] measures it. The log-determinant is minus the integral of the
/// velocity's divergence, which is computed exactly, not estimated, and costs about as much as
/// `dim` evaluations of the velocity: use [`Flow::latent`] where only v is needed.
///
/// ```
/// use invariances::flow::{Condition, Flow, FlowMatching, FlowMatchingConfig};
/// use invariances::{candle_core::Device, ops::{Params, Rng, backward}, train::Adam};
/// let params = Params::new(0);
/// let config = FlowMatchingConfig { hidden: 32, blocks: 1, ..FlowMatchingConfig::new(2, Condition::Vector(1)) };
/// let t = FlowMatching::new(&config, &params.root())?;
/// let mut rng = Rng::new(1);
/// let z = rng.normal((256, 1), &Device::Cpu)?;
/// let code = rng.normal((256, 2), &Device::Cpu)?.broadcast_add(&(&z * 3.0)?)?;
/// t.initialize(&code, Some(&z))?;
/// let before = t.log_prob(&code, Some(&z))?.mean_all()?.to_scalar::<f32>()?;
/// let mut adam = Adam::named(params.trained())?;
/// for _ in 0..100 {
///     adam.step_at(&backward(&t.loss(&code, Some(&z), &mut rng)?)?, 3e-3)?;
/// }
/// assert!(t.log_prob(&code, Some(&z))?.mean_all()?.to_scalar::<f32>()? > before);
/// assert_eq!(t.sample(Some(&z), 2, &mut rng)?.dims(), [512, 2]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct FlowMatching {
    config: FlowMatchingConfig,
    norm: ActNorm,
    embedder: Embedder,
    velocity: Velocity,
}

impl FlowMatching {
    /// Creates the network below `scope`, with parameters `norm`, `embedder` and `velocity`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a size is 0 or z is not supported; [`Error::Shape`] if parameters of
    /// these names exist with other shapes.
    pub fn new(config: &FlowMatchingConfig, scope: &Scope) -> Result<Self> {
        let FlowMatchingConfig {
            dim, hidden, steps, ..
        } = *config;
        if dim == 0 || hidden == 0 || steps == 0 {
            return Err(Error::invalid(format!(
                "expected a code of at least 1 element, a width of at least 1 and at least 1 step \
                 of the solver, found {dim}, {hidden} and {steps}"
            )));
        }
        Ok(Self {
            config: config.clone(),
            norm: ActNorm::fixed(dim, &scope.pp("norm"))?,
            embedder: Embedder::new(
                config.condition,
                hidden,
                config.conditioning_depth,
                &scope.pp("embedder"),
            )?,
            velocity: Velocity::new(dim, hidden, config.blocks, &scope.pp("velocity"))?,
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &FlowMatchingConfig {
        &self.config
    }

    /// Returns the same network with another number of solver steps; parameters are shared.
    pub fn with_steps(&self, steps: usize) -> Self {
        let mut other = self.clone();
        other.config.steps = steps.max(1);
        other
    }

    /// Returns the same network for evaluation: parameters are shared, and results keep no graph.
    pub fn detached(&self) -> Self {
        Self {
            config: self.config.clone(),
            norm: self.norm.detached(),
            embedder: self.embedder.detached(),
            velocity: self.velocity.detached(),
        }
    }

    /// Returns the largest difference between codes and their reconstructions t⁻¹(t(z̄ | z) | z), in
    /// standard deviations of a coordinate. It falls with the square of
    /// [`FlowMatchingConfig::steps`].
    ///
    /// # Errors
    /// As [`Flow::forward`].
    pub fn round_trip_error(&self, code: &Tensor, z: &Tensor) -> Result<f64> {
        let t = self.detached();
        let (code, z) = (code.detach(), z.detach());
        let back = t.inverse(&t.latent(&code, Some(&z))?, Some(&z))?;
        let both = [t.norm.normalize(&t.take(&code)?)?, t.norm.normalize(&back)?];
        let difference = (&both[0] - &both[1])?.abs()?.flatten_all()?.max(0)?;
        crate::ops::scalar(&difference)
    }

    fn take(&self, x: &Tensor) -> Result<Tensor> {
        Placement::of(self.velocity.parameter()).take(x)
    }

    /// Checks a batch and returns it with z, both where the parameters are.
    fn checked(&self, x: &Tensor, z: Option<&Tensor>, what: &str) -> Result<(Tensor, Tensor)> {
        let (x, z) = (self.take(x)?, self.take(required(z, NAME)?)?);
        rows(&x, self.config.dim, what)?;
        check_finite(&x, what)?;
        check_batch(&x, &z)?;
        Ok((x, z))
    }

    /// Solves the equation from the angle `from` to the angle `to`. `of_z` has one row for each
    /// row of x. Returns the end of the path and, if asked for, the integral of the divergence.
    fn solve(
        &self,
        x: Tensor,
        of_z: &Tensor,
        (from, to): (f64, f64),
        with_divergence: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let steps = self.config.steps;
        let step = (to - from) / steps as f64;
        let evaluate = |x: &Tensor, of_time: &Tensor| -> Result<(Tensor, Option<Tensor>)> {
            let modulations = of_z.broadcast_add(of_time)?;
            match with_divergence {
                false => Ok((self.velocity.at(x, &modulations)?, None)),
                true => {
                    let (u, divergence) = self.velocity.with_divergence(x, &modulations)?;
                    Ok((u, Some(divergence)))
                }
            }
        };
        let at = |i: usize| -> Result<Tensor> {
            let value = from + step * i as f64;
            self.velocity.of_time(&angle(value, x.dtype(), x.device())?)
        };
        let (mut h, mut integral) = (x.clone(), None);
        let mut start = at(0)?;
        for i in 0..steps {
            let end = at(i + 1)?;
            let (first, before) = evaluate(&h, &start)?;
            let (second, after) = evaluate(&(&h + (&first * step)?)?, &end)?;
            h = (h + ((first + second)? * (0.5 * step))?)?;
            if let (Some(before), Some(after)) = (before, after) {
                let added = ((before + after)? * (0.5 * step))?;
                integral = Some(match integral {
                    None => added,
                    Some(sum) => (sum + added)?,
                });
            }
            start = end;
        }
        Ok((h, integral))
    }
}

impl Flow for FlowMatching {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let of_z = self.velocity.of_z(&self.embedder.forward(&z)?)?;
        let (x, scaling) = self.norm.forward(&x, None)?;
        // The angle falls, so the sum of the divergences is already the negative integral.
        let (v, integral) = self.solve(x, &of_z, (FRAC_PI_2, 0.0), true)?;
        Ok(match integral {
            Some(integral) => (v, (scaling + integral)?),
            None => (v, scaling),
        })
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let of_z = self.velocity.of_z(&self.embedder.forward(&z)?)?;
        let x = self.norm.normalize(&x)?;
        Ok(self.solve(x, &of_z, (FRAC_PI_2, 0.0), false)?.0)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (v, z) = self.checked(v, condition, "v")?;
        let of_z = self.velocity.of_z(&self.embedder.forward(&z)?)?;
        let (x, _) = self.solve(v, &of_z, (0.0, FRAC_PI_2), false)?;
        self.norm.inverse(&x, None)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.config.dim)
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement::of(self.velocity.parameter()))
    }

    fn initialize(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        let (x, z) = self.checked(x, condition, "codes")?;
        self.norm
            .initialize_with_notice(&x.detach(), "the codes of a flow")?;
        self.embedder.initialize(&z.detach())
    }

    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let t = self.detached();
        let z = t.take(&required(condition, NAME)?.detach())?;
        let v = normal(n * z.dim(0)?, self.config.dim, rng, z.dtype(), z.device())?;
        // What depends on z alone is computed once for all of its samples.
        let of_z = repeated(&t.velocity.of_z(&t.embedder.forward(&z)?)?, n)?;
        let (x, _) = t.solve(v, &of_z, (0.0, FRAC_PI_2), false)?;
        t.norm.inverse(&x, None)
    }

    /// The loss of flow matching: half the squared error of the velocity, summed over the code,
    /// at angles between 0 and π/2 that are spread evenly over the batch. It is not a
    /// log-density, and its minimum is above 0.
    fn loss(&self, x: &Tensor, condition: Option<&Tensor>, rng: &mut Rng) -> Result<Tensor> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let batch = x.dim(0)?;
        let code = self.norm.detached().normalize(&x)?;
        let noise = rng.normal(code.shape(), x.device())?.to_dtype(x.dtype())?;
        // One angle in each of `batch` equal parts, for a smaller variance than independent ones.
        let angles: Vec<f32> = (0..batch)
            .map(|i| (i as f32 + rng.f32()) / batch as f32 * FRAC_PI_2 as f32)
            .collect();
        let angles = Tensor::from_vec(angles, batch, x.device())?.to_dtype(x.dtype())?;
        let (sine, cosine) = (angles.sin()?.unsqueeze(1)?, angles.cos()?.unsqueeze(1)?);
        let place = (noise.broadcast_mul(&cosine)? + code.broadcast_mul(&sine)?)?;
        let target = (code.broadcast_mul(&cosine)? - noise.broadcast_mul(&sine)?)?;
        let of_z = self.velocity.of_z(&self.embedder.forward(&z)?)?;
        let modulations = (of_z + self.velocity.of_time(&angles)?)?;
        let error = (self.velocity.at(&place, &modulations)? - target)?.sqr()?;
        let error = error.to_dtype(match error.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        })?;
        Ok((error.sum_all()? * (0.5 / batch as f64))?)
    }

    fn outline(&self) -> Outline {
        let FlowMatchingConfig {
            dim,
            condition,
            steps,
            ..
        } = self.config;
        Outline::new(format!(
            "FlowMatching({dim}, condition={condition:?}, steps={steps})"
        ))
        .with_parts([
            self.norm.outline().named("norm").with_parameters(0),
            self.embedder.outline().named("embedder"),
            self.velocity.outline().named("velocity"),
        ])
    }
}

shows_outline!(FlowMatching);
