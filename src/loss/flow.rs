use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// The negative log-likelihood of a flow and its parts; see [`nll_parts`].
#[derive(Clone, Debug)]
pub struct Nll {
    /// What is minimised: `prior` − `logdet`, a scalar with its graph.
    pub loss: Tensor,
    /// ½‖v‖², mean over the batch; half the code's size where v is standard normal.
    pub prior: f64,
    /// log|det ∂v/∂z̄| in nats, mean over the batch.
    pub logdet: f64,
}

impl Nll {
    /// The loss as a number.
    pub fn value(&self) -> f64 {
        self.prior - self.logdet
    }

    /// The mean of −log p(z̄ | z) in nats, for a code of this size: the loss with the constant
    /// code/2·log 2π, which minimising does not need.
    pub fn nats(&self, code: usize) -> f64 {
        self.value() + 0.5 * code as f64 * (2.0 * std::f64::consts::PI).ln()
    }
}

/// E[ ½‖v‖² − log|det ∂v/∂z̄| ], the loss of t (arXiv 2008.01777, equation 6), a scalar, without the
/// constant of the normal density. `v` is (batch, code), `logdet` (batch,).
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
/// [`Error::Invalid`] where the shapes do not fit or the batch is empty.
pub fn nll(v: &Tensor, logdet: &Tensor) -> Result<Tensor> {
    let (prior, logdet) = parts(v, logdet)?;
    Ok((prior - logdet)?)
}

/// As [`nll`], with its two parts as numbers, which show what training does.
///
/// # Errors
/// As [`nll`], and [`Error::Diverged`] where the loss is no longer a number.
pub fn nll_parts(v: &Tensor, logdet: &Tensor) -> Result<Nll> {
    let (prior, logdet) = parts(v, logdet)?;
    let number = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(DType::F64)?.to_scalar()?) };
    let nll = Nll {
        prior: number(&prior)?,
        logdet: number(&logdet)?,
        loss: (prior - logdet)?,
    };
    if nll.value().is_finite() {
        return Ok(nll);
    }
    Err(Error::Diverged(format!(
        "the loss of the flow is no number any more (½‖v‖² {}, log-determinant {}); lower the learning rate, or look for constant numbers in the code, which an ActNorm stretches without bound",
        nll.prior, nll.logdet
    )))
}

/// Both terms, mean over the batch, as scalars.
fn parts(v: &Tensor, logdet: &Tensor) -> Result<(Tensor, Tensor)> {
    let batch = logdet.dims();
    if v.rank() < 2 || batch != &v.dims()[..1] || v.elem_count() == 0 {
        return Err(Error::invalid(format!(
            "the loss of a flow needs v (batch, code) and logdet (batch,), found {:?} and {batch:?}",
            v.dims()
        )));
    }
    let prior = (v.sqr()?.sum_all()? * (0.5 / batch[0] as f64))?;
    Ok((prior, logdet.mean_all()?))
}
