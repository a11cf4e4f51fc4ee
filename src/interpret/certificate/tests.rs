//! The tests of one flow on held-out codes, and its round trips.

use super::projection::components;
use super::two_sample::{Picked, Scorer};
use super::{CertificateConfig, LEVEL, ROUND_TRIP, check_images};
use crate::flow::Flow;
use crate::metric::{Hsic, Resampled, Uniformity, holm, hsic, normal_cdf, uniform, uniform_ranks};
use crate::ops::{Placement, Rng, host, moved, repeated, values, widened};
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Samples per image whose log-density is compared with that of the image's code.
const SAMPLES: usize = 19;

/// The largest number of images for HSIC, whose cost is quadratic.
const HSIC_IMAGES: usize = 1000;

/// Rows that a flow evaluates at once.
const BATCH: usize = 512;

/// The held-out images of a certificate.
#[derive(Clone, Debug)]
pub(super) struct HeldOut {
    /// Codes (n, code), as they were given.
    pub(super) code: Tensor,
    /// Representations (n, …), as they were given.
    pub(super) z: Tensor,
    /// Principal components of z, (n, k), f32 on the device of t.
    pub(super) components: Tensor,
    /// The position of each image among those that were given.
    order: Vec<u32>,
}

impl HeldOut {
    /// Takes the images in random order, at most as many as configured: the classifier is trained
    /// on the first half, and images can be sorted by class.
    pub(super) fn new(
        code: &Tensor,
        z: &Tensor,
        placement: Option<&Placement>,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let images = code.dims().first().copied().unwrap_or(0);
        check_images(images.min(config.images))?;
        if code.rank() != 2 || z.rank() < 2 || z.dims().first() != Some(&images) {
            return Err(Error::shape(format!(
                "expected codes of shape (n, code) and one z for each, found {:?} and {:?}",
                code.dims(),
                z.dims()
            )));
        }
        let mut order = Rng::named(config.seed, "order of held-out images").permutation(images);
        order.truncate(config.images);
        let taken = |x: &Tensor| -> Result<Tensor> {
            let rows = Tensor::new(order.as_slice(), x.device())?;
            Ok(x.detach().index_select(&rows, 0)?)
        };
        let (code, z) = (taken(code)?, taken(z)?);
        let found = components(&z, config.seed)?.to_dtype(DType::F32)?;
        let found = match placement {
            Some(at) => moved(&found, &at.device)?,
            None => found,
        };
        Ok(Self {
            code,
            z,
            components: found.contiguous()?,
            order,
        })
    }

    /// Where these images are among those that were given.
    pub(super) fn positions(&self, images: &[u32]) -> Vec<u32> {
        let each = images.iter().filter_map(|i| self.order.get(*i as usize));
        each.copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.code.dims().first().copied().unwrap_or(0)
    }

    /// The number of images on which classifiers are trained. They are the first ones.
    pub(super) fn half(&self) -> usize {
        self.len() / 2
    }

    /// Splits rows into those of the first and of the second half.
    pub(super) fn halves(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let (n, half) = (self.len(), self.half());
        Ok((rows.narrow(0, 0, half)?, rows.narrow(0, half, n - half)?))
    }

    /// The same codes with the z of other images.
    pub(super) fn with_z_of(&self, order: &Tensor) -> Result<Self> {
        let on =
            |x: &Tensor| -> Result<Tensor> { Ok(x.index_select(&moved(order, x.device())?, 0)?) };
        Ok(Self {
            code: self.code.clone(),
            z: on(&self.z)?,
            components: on(&self.components)?,
            order: self.order.clone(),
        })
    }
}

/// The results of the tests of one flow.
#[derive(Clone, Debug)]
pub struct Tests {
    accuracy: Resampled,
    accuracy_p: f64,
    ranks: Vec<usize>,
    ranks_test: Uniformity,
    hsic: Hsic,
    pit: Vec<Uniformity>,
    variance: f64,
}

impl Tests {
    /// Tests a flow, which errors call `name`; `condition` has one row for each held-out image. Also
    /// returns the classifier's score.
    pub(super) fn of(
        name: &str,
        t: &dyn Flow,
        condition: &Tensor,
        held_out: &HeldOut,
        config: &CertificateConfig,
    ) -> Result<(Self, Scorer)> {
        let v = latents(t, condition, held_out)?;
        let in_rows = host(&v)?.to_vec2::<f64>()?;
        if in_rows.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "v of held-out images contains NaN or infinity for the flow {name:?} of a \
                 certificate: its training diverged; train it again with a lower learning rate, or \
                 use f32 instead of half precision"
            )));
        }
        let v = moved(&v.to_dtype(DType::F32)?, held_out.components.device())?.contiguous()?;
        let (v_fit, v_test) = held_out.halves(&v)?;
        let (z_fit, z_test) = held_out.halves(&held_out.components)?;
        let scorer = Scorer::train(&v_fit, &z_fit, config, "classifier")?;
        let picked = Picked::of(&scorer, &v_test, &z_test, config)?;
        let ranks = match t.density_is_slow() {
            true => ranks_of_v(in_rows.iter().skip(held_out.half()), config.seed),
            false => ranks(t, condition, held_out, config)?,
        };
        let (half, tested) = (held_out.half(), v_test.dim(0)?);
        let some = tested.min(HSIC_IMAGES);
        let hsic = hsic(
            &v_test.narrow(0, 0, some)?,
            &z_test.narrow(0, 0, some)?,
            config.permutations,
            config.seed,
        )?;
        let dim = v.dim(1)?;
        let mut pit = Vec::with_capacity(dim);
        for coordinate in 0..dim {
            let column = in_rows
                .iter()
                .skip(half)
                .map(|row| normal_cdf(row[coordinate]));
            pit.push(uniform(&column.collect::<Vec<f64>>())?);
        }
        let squares: f64 = in_rows.iter().skip(half).flatten().map(|v| v * v).sum();
        let tests = Self {
            accuracy: picked.accuracy,
            accuracy_p: picked.p,
            ranks_test: uniform_ranks(&ranks, SAMPLES + 1, config.seed)?,
            ranks,
            hsic,
            pit,
            variance: squares / (dim * tested) as f64,
        };
        Ok((tests, scorer))
    }

    /// The share of pairs (v, ε) with the same z in which the classifier picks v: 0.5 if v is
    /// exact.
    pub fn accuracy(&self) -> Resampled {
        self.accuracy.clone()
    }

    /// The p-value of the classifier's success, by permutation.
    pub fn accuracy_p(&self) -> f64 {
        self.accuracy_p
    }

    /// The share of codes that lie in the region of highest density with this probability under t;
    /// for a flow whose density is slow, in the region of small |v| with this probability.
    /// For an exact t it is `probability`, in steps of 1/20, with a standard error of at most 0.022
    /// for 500 images ([`CertificateConfig::ranked`](super::CertificateConfig)).
    pub fn coverage(&self, probability: f64) -> f64 {
        let levels = (SAMPLES + 1) as f64;
        let least = ((1.0 - probability.clamp(0.0, 1.0)) * levels).round() as usize;
        let inside = self.ranks.iter().filter(|r| **r >= least).count();
        inside as f64 / self.ranks.len().max(1) as f64
    }

    /// The test that the ranks are uniform: of the log-density, or of |v| for a flow whose density is
    /// slow. The latter does not test the log-determinant.
    pub fn coverage_test(&self) -> Uniformity {
        self.ranks_test
    }

    /// The dependence of v on the principal components of z.
    pub fn dependence(&self) -> Hsic {
        self.hsic
    }

    /// For each coordinate of v on the tested half, the test that it is standard normal.
    pub fn coordinates(&self) -> &[Uniformity] {
        &self.pit
    }

    /// The p-value of the coordinate that deviates most, corrected for their number (Šidák).
    pub fn coordinates_p(&self) -> f64 {
        let least = self.pit.iter().map(|u| u.p).fold(1.0, f64::min);
        if least >= 1.0 {
            return 1.0;
        }
        -((self.pit.len() as f64) * (-least).ln_1p()).exp_m1()
    }

    /// The mean square of v over all coordinates and images; 1 for an exact t.
    pub fn mean_square(&self) -> f64 {
        self.variance
    }

    /// The names and p-values of the four tests, after Holm's correction.
    pub fn corrected(&self) -> [(&'static str, f64); 4] {
        let p = [
            self.accuracy_p,
            self.ranks_test.p,
            self.hsic.p,
            self.coordinates_p(),
        ];
        let corrected = holm(&p);
        let at = |i: usize| corrected.get(i).copied().unwrap_or(f64::NAN);
        [
            ("classifier", at(0)),
            ("coverage", at(1)),
            ("HSIC", at(2)),
            ("coordinates", at(3)),
        ]
    }

    /// Whether no test rejects at 5 % after Holm's correction.
    pub fn passes(&self) -> bool {
        self.corrected().iter().all(|(_, p)| *p > LEVEL)
    }
}

/// A part of the held-out codes as inputs of a flow, with their conditions.
fn part(
    t: &dyn Flow,
    condition: &Tensor,
    held_out: &HeldOut,
    start: usize,
    count: usize,
) -> Result<(Tensor, Tensor)> {
    let code = held_out.code.narrow(0, start, count)?.contiguous()?;
    let condition = condition.narrow(0, start, count)?.contiguous()?;
    Ok((placed(t, &code)?, condition))
}

/// Returns v (n, d).
fn latents(t: &dyn Flow, condition: &Tensor, held_out: &HeldOut) -> Result<Tensor> {
    let mut parts = Vec::new();
    for start in (0..held_out.len()).step_by(BATCH) {
        let count = BATCH.min(held_out.len() - start);
        let (code, condition) = part(t, condition, held_out, start, count)?;
        parts.push(widened(&t.latent(&code, Some(&condition))?.detach())?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

fn log_density(v: &Tensor, logdet: &Tensor) -> Result<Vec<f64>> {
    let squares = values(&widened(&v.detach())?.sqr()?.sum(1)?)?;
    let logdet = values(&logdet.detach())?;
    Ok(squares
        .iter()
        .zip(logdet)
        .map(|(s, l)| l - 0.5 * s)
        .collect())
}

/// A tensor on the device and in the number type of a flow.
fn placed(t: &dyn Flow, x: &Tensor) -> Result<Tensor> {
    match t.placement() {
        Some(at) => at.take(x),
        None => Ok(x.clone()),
    }
}

/// For some images of the second half: the number of samples of the same z, of 19, whose
/// log-density is below that of the code.
fn ranks(
    t: &dyn Flow,
    condition: &Tensor,
    held_out: &HeldOut,
    config: &CertificateConfig,
) -> Result<Vec<usize>> {
    let (n, dim) = held_out.code.dims2()?;
    let first = held_out.half().max(n.saturating_sub(config.ranked.max(1)));
    let mut own = Vec::new();
    for start in (first..n).step_by(BATCH) {
        let (code, condition) = part(t, condition, held_out, start, BATCH.min(n - start))?;
        let (v, logdet) = t.forward(&code, Some(&condition))?;
        own.extend(log_density(&v, &logdet)?);
    }
    let mut rng = Rng::named(config.seed, "samples for ranks");
    let at = t.placement().unwrap_or(Placement::of(condition));
    let mut ranks = Vec::new();
    for start in (first..n).step_by(64) {
        let count = 64.min(n - start);
        let condition = condition.narrow(0, start, count)?.contiguous()?;
        let condition = repeated(&condition, SAMPLES)?;
        let v = at.take(&rng.normal((count * SAMPLES, dim), &at.device)?)?;
        let code = t.inverse(&v, Some(&condition))?.detach();
        // A sample that the flow cannot compute has no density.
        let of_samples = match t.forward(&code, Some(&condition)) {
            Ok((again, logdet)) => log_density(&again, &logdet)?,
            Err(Error::Invalid(_)) => vec![f64::NEG_INFINITY; count * SAMPLES],
            Err(error) => return Err(error),
        };
        let own = own.iter().skip(start - first);
        for (of_samples, own) in of_samples.chunks(SAMPLES).zip(own) {
            let below = of_samples.iter().filter(|s| *s < own || s.is_nan()).count();
            // In half precision densities can be equal.
            let equal = of_samples.iter().filter(|s| *s == own).count();
            ranks.push(below + rng.below(equal + 1));
        }
    }
    Ok(ranks)
}

/// For each v: the number of standard normal samples, of 19, that are farther from 0.
fn ranks_of_v<'a>(v: impl Iterator<Item = &'a Vec<f64>>, seed: u64) -> Vec<usize> {
    let mut rng = Rng::named(seed, "samples for ranks");
    v.map(|v| {
        let own: f64 = v.iter().map(|v| v * v).sum();
        let mut square = || {
            (0..v.len())
                .map(|_| f64::from(rng.normal_f32()).powi(2))
                .sum::<f64>()
        };
        (0..SAMPLES).filter(|_| square() > own).count()
    })
    .collect()
}

/// The largest errors of t's round trips, in standard deviations of a coordinate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundTrip {
    /// t⁻¹(t(z̄ | z) | z) against z̄, on held-out codes.
    pub codes: f64,
    /// t(t⁻¹(v | z) | z) against v ~ N(0, 1), with the z of held-out images.
    pub samples: f64,
}

impl RoundTrip {
    pub(super) fn of(
        t: &dyn Flow,
        condition: &Tensor,
        held_out: &HeldOut,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let count = held_out.len().min(BATCH);
        let dim = held_out.code.dim(1)?;
        let at = t.placement().unwrap_or(Placement::of(condition));
        let condition = condition.narrow(0, 0, count)?.contiguous()?;
        let code = at.take(&held_out.code.narrow(0, 0, count)?.contiguous()?)?;
        let v = t.latent(&code, Some(&condition))?;
        // Errors are the result here: an inverse that is not finite is an infinite error.
        let again = t.inverse(&v.detach(), Some(&condition));
        let deviations = values(&host(&code)?.var(0)?.sqrt()?)?;
        let mut sorted = deviations.clone();
        sorted.sort_by(f64::total_cmp);
        let typical = sorted.get(dim / 2).copied().unwrap_or(1.0).max(1e-12);
        // A coordinate that hardly varies is compared with the others.
        let units: Vec<f64> = deviations.iter().map(|d| d.max(0.1 * typical)).collect();
        let mut rng = Rng::named(config.seed, "samples of the round trip");
        let drawn = at.take(&rng.normal((count, dim), &at.device)?)?;
        let sampled = t
            .inverse(&drawn, Some(&condition))
            .and_then(|code| t.latent(&code.detach(), Some(&condition)));
        Ok(Self {
            codes: error_of(again, |again| largest(&again, &code, &units))?,
            samples: error_of(sampled, |v| largest(&v, &drawn, &vec![1.0; dim]))?,
        })
    }

    /// Whether both errors are at most 0.01 standard deviations.
    pub fn is_exact(&self) -> bool {
        self.codes <= ROUND_TRIP && self.samples <= ROUND_TRIP
    }
}

/// The error of a round trip; infinite if a flow refused values that are not finite.
fn error_of<T>(result: Result<T>, of: impl FnOnce(T) -> Result<f64>) -> Result<f64> {
    match result {
        Ok(value) => of(value),
        Err(Error::Invalid(_)) => Ok(f64::INFINITY),
        Err(error) => Err(error),
    }
}

/// The largest absolute difference of two tensors (n, d), with a unit for each column.
fn largest(a: &Tensor, b: &Tensor, units: &[f64]) -> Result<f64> {
    let difference = values(&(host(a)? - host(b)?)?)?;
    let each = difference.iter().zip(units.iter().cycle());
    Ok(
        each.fold(0.0, |largest: f64, (d, unit)| match (d / unit).abs() {
            error if error.is_finite() => largest.max(error),
            _ => f64::INFINITY,
        }),
    )
}
