//! The maps of single elements that a [`Coupling`](super::Coupling) can apply: the trait
//! [`Univariate`], and its two implementations.

use crate::ops::spline::{Spline, numbers_per_element};
use crate::{Error, Result};
use candle_core::Tensor;
use std::fmt;

/// An invertible map of one element whose parameters are predicted by the nets of a
/// [`Coupling`](super::Coupling).
///
/// This is an additive coupling (NICE, Dinh et al. 2015,
/// [arXiv 1410.8516](https://arxiv.org/abs/1410.8516)):
///
/// ```
/// use invariances::candle_core::{Device, Tensor};
/// use invariances::flow::{Coupling, CouplingNets, Flow, Univariate};
/// use invariances::{Result, ops::Params};
///
/// #[derive(Clone, Debug)]
/// struct Shift;
/// impl Univariate for Shift {
///     fn nets(&self) -> Vec<(&'static str, usize)> {
///         vec![("shift", 1)]
///     }
///     fn forward(&self, x: &Tensor, raw: &[Tensor]) -> Result<(Tensor, Tensor)> {
///         Ok(((x + &raw[0])?, x.zeros_like()?))
///     }
///     fn inverse(&self, y: &Tensor, raw: &[Tensor]) -> Result<Tensor> {
///         Ok((y - &raw[0])?)
///     }
/// }
///
/// let params = Params::new(0);
/// let coupling = Coupling::new(4, Shift, &CouplingNets::default(), &params.root())?;
/// let x = Tensor::new(&[[1f32, 2.0, 3.0, 4.0]], &Device::Cpu)?;
/// let (v, logdet) = coupling.forward(&x, None)?;
/// assert_eq!(logdet.to_vec1::<f32>()?, [0.0]);
/// let difference = (coupling.inverse(&v, None)? - x)?.abs()?.max_all()?;
/// assert!(difference.to_scalar::<f32>()? < 1e-5);
/// # Ok::<(), invariances::Error>(())
/// ```
pub trait Univariate: Clone + fmt::Debug + Send + Sync + 'static {
    /// The nets of a half-step, at least one: the name of each below the coupling's scope, and the
    /// number of parameters that it predicts per element.
    fn nets(&self) -> Vec<(&'static str, usize)>;

    /// Returns y and log|dy/dx| of each element, both (batch, n). `x` is (batch, n); `raw` holds
    /// the result of each net in the order of [`Univariate::nets`], (batch, n·parameters), in
    /// which the parameters of an element are consecutive.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Tensor`] if the shapes do not fit.
    fn forward(&self, x: &Tensor, raw: &[Tensor]) -> Result<(Tensor, Tensor)>;

    /// Returns the x, (batch, n), that [`Univariate::forward`] maps to `y`.
    ///
    /// # Errors
    /// As [`Univariate::forward`].
    fn inverse(&self, y: &Tensor, raw: &[Tensor]) -> Result<Tensor>;
}

/// The affine map x·exp(s) + t with s = clamp·tanh(net/clamp), so that it scales by at most
/// e^clamp. Clamp 1, the default, gives the authors' tanh. A larger clamp hardly changes small
/// log-scales and bounds only large ones (the soft clamp of Ardizzone et al. 2019,
/// [arXiv 1907.02392](https://arxiv.org/abs/1907.02392), with tanh).
///
/// The nets are `s` and `t`.
#[derive(Clone, Copy, PartialEq)]
pub struct Affine {
    clamp: f64,
}

impl Affine {
    /// Creates a map with log-scales up to ±`clamp`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `clamp` is finite and above 0.
    pub fn clamped(clamp: f64) -> Result<Self> {
        if !(clamp.is_finite() && clamp > 0.0) {
            return Err(Error::invalid(format!(
                "expected a clamp above 0 for an affine coupling, found {clamp}: the authors use 1"
            )));
        }
        Ok(Self { clamp })
    }

    /// Returns the largest absolute log-scale.
    pub fn clamp(&self) -> f64 {
        self.clamp
    }

    /// Returns s and t from the results of the nets.
    fn parts<'a>(&self, raw: &'a [Tensor]) -> Result<(Tensor, &'a Tensor)> {
        let [s, t] = raw else {
            return Err(wrong_count(2, raw.len()));
        };
        let s = ((s * self.clamp.recip())?.tanh()? * self.clamp)?;
        Ok((s, t))
    }
}

fn wrong_count(expected: usize, found: usize) -> Error {
    Error::shape(format!(
        "expected the results of {expected} nets for a coupling's transform, found {found}"
    ))
}

impl Default for Affine {
    fn default() -> Self {
        Self { clamp: 1.0 }
    }
}

impl fmt::Debug for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Affine(clamp={})", self.clamp)
    }
}

impl Univariate for Affine {
    fn nets(&self) -> Vec<(&'static str, usize)> {
        vec![("s", 1), ("t", 1)]
    }

    fn forward(&self, x: &Tensor, raw: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let (s, t) = self.parts(raw)?;
        Ok((((x * s.exp()?)? + t)?, s))
    }

    fn inverse(&self, y: &Tensor, raw: &[Tensor]) -> Result<Tensor> {
        let (s, t) = self.parts(raw)?;
        Ok(((y - t)? * s.neg()?.exp()?)?)
    }
}

/// A monotone rational-quadratic spline (Durkan et al. 2019,
/// [arXiv 1906.04032](https://arxiv.org/abs/1906.04032), section 3), which acts on
/// [−bound, bound] and is the identity outside. If the net's output is 0, the spline is the
/// identity everywhere. Unlike an affine map, a spline can turn one mode into several in a single
/// step, and its bins limit how much a step stretches.
///
/// The net is `spline`. It predicts 3·bins − 1 parameters per element: widths, heights and inner
/// slopes of the bins.
#[derive(Clone, Copy, PartialEq)]
pub struct RationalQuadratic {
    bins: usize,
    bound: f64,
    spline: Spline,
}

impl RationalQuadratic {
    /// Creates splines with `bins` bins on [−`bound`, `bound`].
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `bins` is from 2 to 64 and `bound` is finite and above 0.
    pub fn new(bins: usize, bound: f64) -> Result<Self> {
        Ok(Self {
            bins,
            bound,
            spline: Spline::new(bins, bound)?,
        })
    }

    fn only<'a>(&self, raw: &'a [Tensor]) -> Result<&'a Tensor> {
        match raw {
            [raw] => Ok(raw),
            _ => Err(wrong_count(1, raw.len())),
        }
    }
}

impl fmt::Debug for RationalQuadratic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RationalQuadratic(bins={}, bound={})",
            self.bins, self.bound
        )
    }
}

impl Univariate for RationalQuadratic {
    fn nets(&self) -> Vec<(&'static str, usize)> {
        vec![("spline", numbers_per_element(self.bins))]
    }

    fn forward(&self, x: &Tensor, raw: &[Tensor]) -> Result<(Tensor, Tensor)> {
        self.spline.forward(x, self.only(raw)?)
    }

    fn inverse(&self, y: &Tensor, raw: &[Tensor]) -> Result<Tensor> {
        self.spline.inverse(y, self.only(raw)?)
    }
}
