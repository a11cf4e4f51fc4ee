//! A classifier that tells (v, z) from (ε, z), and the permutation test of its success.

use super::CertificateConfig;
use crate::metric::Resampled;
use crate::ops::{Adam, Init, Linear, Params, Rng, repeated, scalar, values};
use crate::{Error, Result};
use candle_core::{DType, Tensor, Var};

/// The width of the hidden layers.
const HIDDEN: usize = 64;

/// Standard normal vectors beside each v in the test.
const NOISE: usize = 15;

/// The number of pairs in a training batch.
const BATCH: usize = 128;

/// Steps between two measurements on the validation rows.
const CHECK: u64 = 25;

/// A score s(v, z), trained so that s(v, z) > s(ε, z) for v = t(z̄ | z) and ε ~ N(0, 1). At the
/// optimum it is the log-ratio of the densities of v given z and of ε, up to a function of z.
///
/// The score contains the terms by which a Gaussian v with any mean and variance given z differs
/// from ε (v and v², with coefficients predicted from z; squares of projections of v), and a
/// network with one hidden layer for everything else.
pub(super) struct Scorer {
    coefficients: Linear,
    from_z: Linear,
    projections: Linear,
    squares: Linear,
    hidden: Linear,
    out: Linear,
    parameters: Vec<(String, Var)>,
}

impl Scorer {
    fn new(dim: usize, components: usize, params: &Params) -> Result<Self> {
        let at = params.root();
        let zero = Init::Const(0.0);
        let scorer = Self {
            coefficients: Linear::new(components + HIDDEN, 2 * dim, zero, &at.pp("coefficients"))?,
            from_z: Linear::new(components, HIDDEN, Init::He, &at.pp("from_z"))?,
            projections: Linear::new_no_bias(dim, HIDDEN, Init::FanIn, &at.pp("projections"))?,
            squares: Linear::new(HIDDEN, 1, zero, &at.pp("squares"))?,
            hidden: Linear::new(dim + components, HIDDEN, Init::He, &at.pp("hidden"))?,
            out: Linear::new(HIDDEN, 1, zero, &at.pp("out"))?,
            parameters: Vec::new(),
        };
        Ok(Self {
            parameters: params.trained(),
            ..scorer
        })
    }

    /// Returns the scores (n,) of v (n, d) and components of z (n, k).
    pub(super) fn score(&self, v: &Tensor, z: &Tensor) -> Result<Tensor> {
        let squared = ((v.sqr()? - 1.0)? * std::f64::consts::FRAC_1_SQRT_2)?;
        let moments = Tensor::cat(&[v, &squared], 1)?;
        let from_z = Tensor::cat(&[z, &self.from_z.forward(z)?.relu()?], 1)?;
        let linear = (self.coefficients.forward(&from_z)? * moments)?.sum(1)?;
        let projected = self.projections.forward(v)?.sqr()?;
        let squares = self.squares.forward(&projected)?.squeeze(1)?;
        let hidden = self.hidden.forward(&Tensor::cat(&[v, z], 1)?)?.relu()?;
        let rest = self.out.forward(&hidden)?.squeeze(1)?;
        Ok(((linear + squares)? + rest)?)
    }

    /// The mean of softplus(s(ε, z) − s(v, z)) over pairs.
    fn loss(&self, v: &Tensor, noise: &Tensor, z: &Tensor) -> Result<Tensor> {
        let n = v.dim(0)?;
        let both = self.score(&Tensor::cat(&[v, noise], 0)?, &Tensor::cat(&[z, z], 0)?)?;
        let difference = (both.narrow(0, n, n)? - both.narrow(0, 0, n)?)?;
        // softplus without overflow: max(d, 0) + ln(1 + exp(−|d|)).
        let tail = ((difference.abs()?.neg()?.exp()? + 1.0)?).log()?;
        Ok((difference.relu()? + tail)?.mean_all()?)
    }

    /// Trains the score on rows of v (n, d) and components of z (n, k), with fresh noise in each
    /// step. A fifth of the rows decides which weights are kept.
    pub(super) fn train(
        v: &Tensor,
        z: &Tensor,
        config: &CertificateConfig,
        stream: &str,
    ) -> Result<Self> {
        let (n, dim) = v.dims2()?;
        let components = z.dim(1)?;
        let params = Params::with(config.seed, DType::F32, v.device());
        let scorer = Self::new(dim, components, &params)?;
        let validation = (n / 5).max(1);
        let rows = (n - validation).max(1);
        let (v_checked, z_checked) = (
            v.narrow(0, n - validation, validation)?,
            z.narrow(0, n - validation, validation)?,
        );
        let mut rng = Rng::named(config.seed, stream);
        let noise_checked = rng.normal((validation, dim), v.device())?;
        let mut adam = Adam::named(scorer.parameters.clone())?
            .betas(0.9, 0.99)
            .weight_decay(0.1);
        let mut best = f64::INFINITY;
        let mut kept: Vec<Tensor> = Vec::new();
        for step in 1..=config.steps {
            let chosen: Vec<u32> = (0..BATCH).map(|_| rng.below(rows) as u32).collect();
            let chosen = Tensor::new(chosen, v.device())?;
            let noise = rng.normal((BATCH, dim), v.device())?;
            let (v, z) = (v.index_select(&chosen, 0)?, z.index_select(&chosen, 0)?);
            let loss = scorer.loss(&v, &noise, &z)?;
            let rate = 5e-3 * (1.0 - (step - 1) as f64 / config.steps as f64);
            adam.step_at(&loss.backward()?, rate)?;
            if step % CHECK == 0 || step == config.steps {
                let loss = scalar(
                    &scorer
                        .loss(&v_checked, &noise_checked, &z_checked)?
                        .detach(),
                )?;
                if !loss.is_finite() {
                    return Err(Error::invalid(
                        "the classifier of a certificate diverged: v of held-out images is very \
                         large; train t again with a lower learning rate",
                    ));
                }
                if loss < best || kept.is_empty() {
                    best = loss;
                    let copies = scorer.parameters.iter().map(|(_, p)| p.as_tensor().copy());
                    kept = copies.collect::<candle_core::Result<_>>()?;
                }
            }
        }
        for ((_, parameter), best) in scorer.parameters.iter().zip(&kept) {
            parameter.set(best)?;
        }
        Ok(scorer)
    }

    /// Returns the scores of noise (rows · count, d) with each row's z, `count` for each row.
    pub(super) fn of_noise(&self, noise: &Tensor, z: &Tensor, count: usize) -> Result<Vec<f64>> {
        let mut scores = Vec::new();
        let rows = z.dim(0)?;
        for start in (0..rows).step_by(256) {
            let some = 256.min(rows - start);
            let z = repeated(&z.narrow(0, start, some)?.contiguous()?, count)?;
            let noise = noise.narrow(0, start * count, some * count)?;
            scores.extend(values(&self.score(&noise, &z)?.detach())?);
        }
        Ok(scores)
    }
}

/// The result of the two-sample test: for each tested row the share of its pairs (v, ε) in which
/// the score of v is higher.
pub(super) struct Picked {
    pub(super) accuracy: Resampled,
    pub(super) p: f64,
}

impl Picked {
    /// Tests the score on rows that it was not trained on. If v is standard normal and independent
    /// of z, v and the noise beside it are exchangeable. The null distribution is that of the
    /// success if, in each row, a random one of these vectors takes the place of v.
    pub(super) fn of(
        scorer: &Scorer,
        v: &Tensor,
        z: &Tensor,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let (n, dim) = v.dims2()?;
        let mut rng = Rng::named(config.seed, "noise beside v");
        let noise = rng.normal((n * NOISE, dim), v.device())?;
        let of_v = values(&scorer.score(v, z)?.detach())?;
        let of_noise = scorer.of_noise(&noise, z, NOISE)?;
        // For each row and each of its vectors, the share of the others with a lower score.
        let mut shares: Vec<[f64; NOISE + 1]> = Vec::with_capacity(n);
        for (of_v, of_noise) in of_v.iter().zip(of_noise.chunks(NOISE)) {
            let all: Vec<f64> = [*of_v].iter().chain(of_noise).copied().collect();
            let mut row = [0.0; NOISE + 1];
            for (share, score) in row.iter_mut().zip(&all) {
                let lower = all.iter().filter(|s| *s < score).count() as f64;
                // The score itself is not one of the others.
                let equal = all.iter().filter(|s| *s == score).count() as f64 - 1.0;
                *share = (lower + 0.5 * equal.max(0.0)) / NOISE as f64;
            }
            shares.push(row);
        }
        let observed: Vec<f64> = shares.iter().map(|row| row[0]).collect();
        let sum: f64 = observed.iter().sum();
        let mut rng = Rng::named(config.seed, "permutations of v and noise");
        let mut reached = 0;
        for _ in 0..config.permutations {
            let permuted: f64 = shares.iter().map(|row| row[rng.below(NOISE + 1)]).sum();
            reached += usize::from(permuted >= sum - 1e-9);
        }
        Ok(Self {
            accuracy: Resampled::mean(&observed, config.seed),
            p: (1 + reached) as f64 / (1 + config.permutations) as f64,
        })
    }
}
