//! [`FlowMatching`]: a continuous flow, the solution of an ordinary differential equation.

use super::velocity::{Modulations, Velocity, angle};
use super::{
    ActNorm, Condition, Embedder, Flow, check_batch, check_finite, normal, required, rows,
};
use crate::ops::{Placement, Rng, Scope, repeated, values};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

/// The name of the network in error messages.
const NAME: &str = "a flow that is trained by flow matching";

/// How much closer together the steps of the solver are near the code: the distance to the code is
/// (1 − i/steps) to this power, of π/2. Of 1, 1.5 and 2, on the faces of docs/results/flows.md, 1.5
/// gave the smallest errors of codes, and nearly the densities of 2, which were the most exact.
const GRID: f64 = 1.5;

/// The largest number of solver steps. More give no better results, and their graph is too deep for
/// candle, which walks through it recursively.
const MOST_STEPS: usize = 128;

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
    /// Number of steps of the solver, at most 128. Each evaluates the velocity four times.
    pub steps: usize,
    /// Number of noise vectors and angles for each code in the loss ([`Flow::loss`]). More than one
    /// shares the embedding of z, which is most of the work where z is a map.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub draws: usize,
}

fn one() -> usize {
    1
}

/// One draw is not written: the keys of flows that were trained before there were more stay valid.
fn is_one(draws: &usize) -> bool {
    *draws == 1
}

impl FlowMatchingConfig {
    /// Returns a configuration for some minutes of training on two CPU cores: 3 blocks with
    /// twice the width of the code (128 to 192), solved in 6 steps, or 8 for codes of fewer than
    /// 64 elements: with 6, the round trips of digits were not exact (docs/results/flows.md).
    pub fn new(dim: usize, condition: Condition) -> Self {
        Self {
            dim,
            condition,
            hidden: (2 * dim).clamp(128, 192),
            blocks: 3,
            conditioning_depth: 4,
            steps: if dim < 64 { 8 } else { 6 },
            draws: 1,
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
/// The classical Runge–Kutta method solves the equation, in [`FlowMatchingConfig::steps`] steps in both
/// directions.
/// The inverse is therefore exact only in the limit of many steps;
/// [`FlowMatching::round_trip_error`] measures it. The log-determinant is minus the integral of the
/// velocity's divergence, which is computed exactly, not estimated, and costs about as much as
/// `dim` evaluations of the velocity: use [`Flow::latent`] where only v is needed, and
/// [`FlowMatching::detached`] for densities, whose graph would be large. The density has the error
/// of the solver too; [`FlowMatching::with_steps`] shows how large it is.
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
            dim,
            hidden,
            steps,
            draws,
            ..
        } = *config;
        if dim == 0 || hidden == 0 || draws == 0 || !(1..=MOST_STEPS).contains(&steps) {
            return Err(Error::invalid(format!(
                "expected a code of at least 1 element, a width of at least 1, 1 to {MOST_STEPS} \
                 steps of the solver and at least 1 draw, found {dim}, {hidden}, {steps} and {draws}"
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

    /// Returns the same network with another number of solver steps, 1 to 128 (the nearest of them,
    /// for other numbers); parameters are shared.
    pub fn with_steps(&self, steps: usize) -> Self {
        let mut other = self.clone();
        other.config.steps = steps.clamp(1, MOST_STEPS);
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

    /// Returns the largest error of a round trip, in standard deviations: that of codes,
    /// t⁻¹(t(z̄ | z) | z), and that of samples, t(t⁻¹(v | z) | z), with one v ~ N(0, 1) for each z
    /// (the same in every call). It falls at least with the fourth power of
    /// [`FlowMatchingConfig::steps`], and can be smaller than the error of v itself, because errors
    /// of both directions cancel in part. A [`Certificate`](crate::interpret::Certificate) asks
    /// for at most 0.01.
    ///
    /// # Errors
    /// As [`Flow::forward`].
    pub fn round_trip_error(&self, code: &Tensor, z: &Tensor) -> Result<f64> {
        let t = self.detached();
        let (code, z) = (t.take(&code.detach())?, t.take(&z.detach())?);
        let back = t.inverse(&t.latent(&code, Some(&z))?, Some(&z))?;
        let codes = [t.norm.normalize(&code)?, t.norm.normalize(&back)?];
        let mut rng = Rng::named(0, "round trips");
        let v = rng
            .normal(code.shape(), code.device())?
            .to_dtype(code.dtype())?;
        let samples = [t.latent(&t.inverse(&v, Some(&z))?, Some(&z))?, v];
        let mut largest = 0f64;
        for [a, b] in [codes, samples] {
            for difference in values(&(a - b)?.abs()?)? {
                largest = match difference.is_finite() {
                    true => largest.max(difference),
                    false => f64::INFINITY,
                };
            }
        }
        Ok(largest)
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

    /// The modulations of the velocity that depend on z, one row per row of z.
    fn of_z(&self, z: &Tensor) -> Result<Tensor> {
        let features = self.velocity.of_z(&self.embedder.forward(z)?)?;
        self.velocity.modulations(&features)
    }

    /// The angles from 0 (noise) to π/2 (code) between which the solver steps. They are closer
    /// together near the code, where the velocity changes fastest.
    fn angles(&self) -> Vec<f64> {
        let steps = self.config.steps;
        let share = |i: usize| 1.0 - (1.0 - i as f64 / steps as f64).powf(GRID);
        (0..=steps).map(|i| FRAC_PI_2 * share(i)).collect()
    }

    /// The same angles from the code to noise.
    fn angles_back(&self) -> Vec<f64> {
        self.angles().into_iter().rev().collect()
    }

    /// Solves the equation from noise to code or back, on the angles of [`FlowMatching::angles`].
    /// `of_z` has one row for each row of x. Returns the end of the path and, if asked for, the integral of the divergence.
    fn solve(
        &self,
        x: Tensor,
        of_z: &Tensor,
        angles: &[f64],
        with_divergence: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let evaluate = |x: &Tensor, of_time: &Tensor| -> Result<(Tensor, Option<Tensor>)> {
            let modulations = Modulations {
                of_z: of_z.clone(),
                added: Some(of_time.clone()),
            };
            match with_divergence {
                false => Ok((self.velocity.at(x, &modulations)?, None)),
                true => {
                    let (u, divergence) = self.velocity.with_divergence(x, &modulations)?;
                    Ok((u, Some(divergence)))
                }
            }
        };
        let time = |value: f64| -> Result<Tensor> {
            let features = self
                .velocity
                .of_time(&angle(value, x.dtype(), x.device())?)?;
            self.velocity.added(&features)
        };
        let (mut h, mut integral) = (x.clone(), None);
        let mut start = time(angles[0])?;
        for pair in angles.windows(2) {
            let step = pair[1] - pair[0];
            let (middle, end) = (time(pair[0] + 0.5 * step)?, time(pair[1])?);
            let (first, divergence) = evaluate(&h, &start)?;
            let (mut slopes, mut divergences) = (vec![first], vec![divergence]);
            for (share, of_time) in [(0.5, &middle), (0.5, &middle), (1.0, &end)] {
                let (slope, divergence) = evaluate(
                    &(&h + (&slopes[slopes.len() - 1] * (share * step))?)?,
                    of_time,
                )?;
                slopes.push(slope);
                divergences.push(divergence);
            }
            h = (h + weighted(&slopes, step)?)?;
            let divergences: Option<Vec<Tensor>> = divergences.into_iter().collect();
            if let Some(divergences) = divergences {
                let added = weighted(&divergences, step)?;
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

/// The sum of the four slopes of a Runge–Kutta step, (1, 2, 2, 1)·step/6.
fn weighted(slopes: &[Tensor], step: f64) -> Result<Tensor> {
    let ends = (&slopes[0] + &slopes[3])?;
    let middle = ((&slopes[1] + &slopes[2])? * 2.0)?;
    Ok(((ends + middle)? * (step / 6.0))?)
}

impl Flow for FlowMatching {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let of_z = self.of_z(&z)?;
        let (x, scaling) = self.norm.forward(&x, None)?;
        // The angle falls, so the sum of the divergences is already the negative integral.
        let (v, integral) = self.solve(x, &of_z, &self.angles_back(), true)?;
        Ok(match integral {
            Some(integral) => (v, (scaling + integral)?),
            None => (v, scaling),
        })
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let of_z = self.of_z(&z)?;
        let x = self.norm.normalize(&x)?;
        Ok(self.solve(x, &of_z, &self.angles_back(), false)?.0)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (v, z) = self.checked(v, condition, "v")?;
        let of_z = self.of_z(&z)?;
        let (x, _) = self.solve(v, &of_z, &self.angles(), false)?;
        self.norm.inverse(&x, None)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.config.dim)
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement::of(self.velocity.parameter()))
    }

    fn frozen(&self) -> Option<Arc<dyn Flow>> {
        Some(Arc::new(self.detached()))
    }

    fn density_is_slow(&self) -> bool {
        true
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
        let of_z = t.of_z(&z)?;
        let (parts, rows, hidden) = of_z.dims3()?;
        let of_z = repeated(&of_z.reshape((parts * rows, hidden))?, n)?;
        let of_z = of_z.reshape((parts, rows * n, hidden))?;
        let (x, _) = t.solve(v, &of_z, &t.angles(), false)?;
        t.norm.inverse(&x, None)
    }

    /// The loss of flow matching: half the squared error of the velocity, summed over the code,
    /// at angles between 0 and π/2 that are spread evenly over the batch and all draws of noise
    /// ([`FlowMatchingConfig::draws`]). It is not a log-density, and its minimum is above 0.
    fn loss(&self, x: &Tensor, condition: Option<&Tensor>, rng: &mut Rng) -> Result<Tensor> {
        let (x, z) = self.checked(x, condition, "codes")?;
        // Draw after draw, so that the angles of one code are far apart.
        let of_draws = |rows: &Tensor| -> Result<Tensor> {
            match self.config.draws {
                1 => Ok(rows.clone()),
                draws => Ok(Tensor::cat(&vec![rows; draws], 0)?),
            }
        };
        let batch = x.dim(0)? * self.config.draws;
        let code = of_draws(&self.norm.detached().normalize(&x)?)?;
        let noise = rng.normal(code.shape(), x.device())?.to_dtype(x.dtype())?;
        // One angle in each of `batch` equal parts, for a smaller variance than independent ones.
        let angles: Vec<f32> = (0..batch)
            .map(|i| (i as f32 + rng.f32()) / batch as f32 * FRAC_PI_2 as f32)
            .collect();
        let angles = Tensor::from_vec(angles, batch, x.device())?.to_dtype(x.dtype())?;
        let (sine, cosine) = (angles.sin()?.unsqueeze(1)?, angles.cos()?.unsqueeze(1)?);
        let place = (noise.broadcast_mul(&cosine)? + code.broadcast_mul(&sine)?)?;
        let target = (code.broadcast_mul(&cosine)? - noise.broadcast_mul(&sine)?)?;
        let of_z = of_draws(&self.velocity.of_z(&self.embedder.forward(&z)?)?)?;
        let features = (of_z + self.velocity.of_time(&angles)?)?;
        let modulations = Modulations {
            of_z: self.velocity.modulations(&features)?,
            added: None,
        };
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
