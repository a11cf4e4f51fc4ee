//! The local two-sample test: for which images is t least to be trusted?

use super::CertificateConfig;
use super::LEVEL;
use super::tests::HeldOut;
use super::two_sample::Scorer;
use crate::Result;
use crate::ops::Rng;
use candle_core::Tensor;
use rayon::prelude::*;

/// Standard normal vectors for each image.
const NOISE: usize = 32;

/// The local statistic of each tested image, beside those of classifiers that were trained on
/// noise.
#[derive(Clone, Debug)]
pub(super) struct Local {
    /// The positions of the images.
    images: Vec<u32>,
    /// The variance of the score over the noise, divided by its mean for the null classifiers.
    ratio: Vec<f64>,
    p: Vec<f64>,
}

impl Local {
    /// Computes the variance of the score s(ε, z) over ε ~ N(0, 1) for each image of the second
    /// half. If v given this z is standard normal, a perfect score is the same for all ε. What
    /// variance a trained score has even then is measured by classifiers for which noise takes the
    /// place of v.
    pub(super) fn of(
        scorer: &Scorer,
        held_out: &HeldOut,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let (half, dim) = (held_out.half(), held_out.code.dim(1)?);
        let (z_fit, z_test) = held_out.halves(&held_out.components)?;
        let tested = z_test.dim(0)?;
        let device = held_out.components.device();
        let mut rng = Rng::named(config.seed, "noise of the local test");
        let noise = rng.normal((tested * NOISE, dim), device)?;
        let variances = |scorer: &Scorer| -> Result<Vec<f64>> {
            let scores = scorer.of_noise(&noise, &z_test, NOISE)?;
            Ok(scores.chunks(NOISE).map(variance).collect())
        };
        let observed = variances(scorer)?;
        let mut reached = vec![0usize; tested];
        let mut sums = vec![0f64; tested];
        let train = |null: usize| {
            let stream = format!("null classifier {null}");
            let mut rng = Rng::named(config.seed, &format!("noise of {stream}"));
            let in_place: Tensor = rng.normal((half, dim), device)?;
            variances(&Scorer::train(&in_place, &z_fit, config, &stream)?)
        };
        // The networks are small: on several cores it is faster to train several at once. On a GPU
        // one thread gives all commands.
        let of_nulls: Result<Vec<Vec<f64>>> = match device.is_cpu() {
            true => (0..config.nulls).into_par_iter().map(train).collect(),
            false => (0..config.nulls).map(train).collect(),
        };
        for of_null in of_nulls? {
            for (k, variance) in of_null.into_iter().enumerate() {
                reached[k] += usize::from(variance >= observed[k]);
                sums[k] += variance;
            }
        }
        let nulls = config.nulls.max(1) as f64;
        let each = observed.iter().zip(&sums);
        Ok(Self {
            images: (half as u32..held_out.len() as u32).collect(),
            ratio: each
                .map(|(of_t, sum)| of_t / (sum / nulls).max(1e-12))
                .collect(),
            p: reached
                .iter()
                .map(|r| (1 + r) as f64 / (1 + config.nulls) as f64)
                .collect(),
        })
    }

    pub(super) fn least_trusted(&self, count: usize) -> Vec<u32> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by(|a, b| self.ratio[*b].total_cmp(&self.ratio[*a]));
        order
            .iter()
            .take(count)
            .filter_map(|i| self.images.get(*i).copied())
            .collect()
    }

    pub(super) fn rejected(&self) -> f64 {
        let rejected = self.p.iter().filter(|p| **p <= LEVEL).count();
        rejected as f64 / self.p.len().max(1) as f64
    }
}

fn variance(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n
}
