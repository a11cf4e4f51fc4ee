//! The losses of the flows: the negative log-likelihood of t, and that of pairs of codes for e.

use crate::ops::widened as wide;
use crate::ops::{Placement, scalar};
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// The negative log-likelihood of a flow and its parts; see [`nll_parts`].
#[derive(Clone, Debug)]
pub struct Nll {
    /// The loss to minimise, `prior` − `logdet`, a scalar with its graph.
    pub loss: Tensor,
    /// ½‖v‖², averaged over the batch. It is half the code's size if v is standard normal.
    pub prior: f64,
    /// log|det ∂v/∂z̄| in nats, averaged over the batch.
    pub logdet: f64,
}

impl Nll {
    /// Returns the value of the loss.
    pub fn value(&self) -> f64 {
        self.prior - self.logdet
    }

    /// Returns the mean of −log p(z̄ | z) in nats for a code of this size: the loss plus the
    /// constant code/2·log 2π, which the minimisation omits.
    pub fn nats(&self, code: usize) -> f64 {
        self.value() + 0.5 * code as f64 * (2.0 * std::f64::consts::PI).ln()
    }
}

/// Computes E[ ½‖v‖² − log|det ∂v/∂z̄| ], the loss of t (arXiv 2008.01777, equation 6), a scalar.
///
/// The constant of the normal density is omitted. `v` is (batch, code), `logdet` is (batch,). The
/// result is on the device of `v`, and in f32 if `v` has half precision.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, loss::nll};
/// let v = Tensor::new(&[[1f32, 1.0], [0.0, 2.0]], &Device::Cpu)?;
/// let logdet = Tensor::new(&[0.5f32, 0.5], &Device::Cpu)?;
/// assert_eq!(nll(&v, &logdet)?.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit or the batch is empty.
pub fn nll(v: &Tensor, logdet: &Tensor) -> Result<Tensor> {
    let (prior, logdet) = parts(v, logdet)?;
    Ok((prior - logdet)?)
}

/// Computes [`nll`] and returns its two parts as numbers as well, to monitor training.
///
/// # Errors
/// As [`nll`], and [`Error::Diverged`] if the loss is NaN or infinite.
pub fn nll_parts(v: &Tensor, logdet: &Tensor) -> Result<Nll> {
    let (prior, logdet) = parts(v, logdet)?;
    let nll = Nll {
        prior: scalar(&prior)?,
        logdet: scalar(&logdet)?,
        loss: (prior - logdet)?,
    };
    if nll.value().is_finite() {
        return Ok(nll);
    }
    Err(Error::Diverged(format!(
        "the loss of the flow is NaN or infinite (½‖v‖² {}, log-determinant {}): lower the \
         learning rate, or check the code for constant columns, which an ActNorm scales up without \
         bound",
        nll.prior, nll.logdet
    )))
}

/// Returns both terms as scalars, averaged over the batch.
fn parts(v: &Tensor, logdet: &Tensor) -> Result<(Tensor, Tensor)> {
    let batch = logdet.dims();
    if v.rank() < 2 || batch != &v.dims()[..1] || v.elem_count() == 0 {
        return Err(Error::shape(format!(
            "expected v of shape (batch, code) and logdet of shape (batch,), found {:?} and \
             {batch:?}",
            v.dims()
        )));
    }
    let v = wide(v)?;
    let logdet = Placement::of(&v).take(logdet)?;
    let prior = (v.sqr()?.sum_all()? * (0.5 / batch[0] as f64))?;
    Ok((prior, logdet.mean_all()?))
}

/// The negative log-likelihood of a pair of codes that share a concept; see [`pair_nll`].
#[derive(Clone, Debug)]
pub struct PairNll {
    /// The loss to minimise, `first` + `second`.
    pub loss: Tensor,
    /// The negative log-likelihood of the first image, a scalar.
    pub first: Tensor,
    /// The negative log-likelihood of the second image given the first, a scalar.
    pub second: Tensor,
}

/// Computes the loss of e on pairs of images that share a concept (arXiv 2004.13166, equations 7
/// to 10). Constants are omitted.
///
/// `first` and `second` are the outputs of e for the two images: the concatenated factors (batch,
/// code) and the log-determinant (batch,). The first image's factors are standard normal. For the
/// second image, the factors F that the pair shares are N(ρ·e_F of the first, 1 − ρ²); all others
/// are standard normal.
///
/// `shared` has one value per pair. A value k ≥ 0 means that the pair shares factor k only. A
/// value −k (k ≥ 1) means that it shares **all but** k, the residual included, as in the authors'
/// code. Factor 0 therefore cannot be the excluded one. `sizes` are the factors' sizes, the
/// residual last. The paper uses ρ = 0.975.
///
/// The result is on the device of the first image's factors, and in f32 if they have half
/// precision.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, loss::pair_nll};
/// let a = Tensor::new(&[[1f32, 0.0]], &Device::Cpu)?;
/// let b = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
/// let logdet = Tensor::new(&[0f32], &Device::Cpu)?;
/// let loss = pair_nll((&a, &logdet), (&b, &logdet), &[0], &[1, 1], 0.5)?;
/// // First image: ½·1². Second image: ½·(1 − 0.5·1)²/(1 − 0.5²) + ½·2².
/// assert!((loss.loss.to_scalar::<f32>()? - (0.5 + 0.125 / 0.75 + 2.0)).abs() < 1e-6);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit each other or `sizes`; [`Error::Unknown`] if a factor
/// does not exist; [`Error::Invalid`] unless 0 ≤ ρ < 1.
pub fn pair_nll(
    first: (&Tensor, &Tensor),
    second: (&Tensor, &Tensor),
    shared: &[i64],
    sizes: &[usize],
    rho: f64,
) -> Result<PairNll> {
    let (batch, code) = first.0.dims2()?;
    let fits = second.0.dims() == first.0.dims()
        && [first.1, second.1].iter().all(|l| l.dims() == [batch])
        && sizes.iter().sum::<usize>() == code
        && shared.len() == batch
        && batch > 0;
    if !fits {
        return Err(Error::shape(format!(
            "expected factors of shape (batch, {}) and log-determinants of shape (batch,) for both \
             images, and a shared factor for each pair, found {:?} and {:?} for the first image, \
             {:?} and {:?} for the second, and {} shared factors",
            sizes.iter().sum::<usize>(),
            first.0.dims(),
            first.1.dims(),
            second.0.dims(),
            second.1.dims(),
            shared.len()
        )));
    }
    if !(0.0..1.0).contains(&rho) {
        return Err(Error::invalid(format!(
            "expected a correlation ρ of at least 0 and below 1, found {rho}"
        )));
    }
    let known = |f: &i64| (f.unsigned_abs() as usize) < sizes.len();
    if let Some(other) = shared.iter().find(|f| !known(f)) {
        return Err(Error::unknown(format!(
            "no factor {other} among {} factors: expected 0 to {} (the residual), or −k for all \
             factors except k",
            sizes.len(),
            sizes.len() - 1
        )));
    }
    // ρ for elements of the code that a pair shares, 0 for all others.
    let mut correlation = Vec::with_capacity(batch * code);
    for &f in shared {
        for (k, &size) in sizes.iter().enumerate() {
            let k = k as i64;
            let is_shared = f == k || (f < 0 && f != -k);
            correlation.resize(correlation.len() + size, if is_shared { rho } else { 0.0 });
        }
    }
    let a = wide(first.0)?;
    let at = Placement::of(&a);
    let b = at.take(second.0)?;
    let tensor = |values: Vec<f64>| -> Result<Tensor> {
        let shape = (batch, code);
        // Not every device has f64.
        Ok(match at.dtype {
            DType::F64 => Tensor::from_vec(values, shape, &at.device)?,
            _ => {
                let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
                Tensor::from_vec(values, shape, &at.device)?
            }
        })
    };
    let variance = tensor(correlation.iter().map(|r| 1.0 - r * r).collect())?;
    let correlation = tensor(correlation)?;
    let mean = |square: Tensor, logdet: &Tensor| -> Result<Tensor> {
        let prior = (square.sum_all()? * (0.5 / batch as f64))?;
        Ok((prior - at.take(logdet)?.mean_all()?)?)
    };
    let one = mean(a.sqr()?, first.1)?;
    let difference = (b - (correlation * &a)?)?;
    let two = mean((difference.sqr()? / variance)?, second.1)?;
    Ok(PairNll {
        loss: (&one + &two)?,
        first: one,
        second: two,
    })
}
