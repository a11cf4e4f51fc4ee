//! Monotone rational-quadratic splines, one per element of a tensor, with gradients.
//!
//! Gregory and Delbourgo 1982, as used in flows by Durkan et al. 2019
//! ([arXiv 1906.04032](https://arxiv.org/abs/1906.04032)):
//! K bins on [−B, B] whose widths and heights are softmaxes, and K − 1 slopes between them. At
//! the ends the slope is 1, and outside [−B, B] the map is the identity. On the CPU a kernel
//! processes each element in one pass. It computes in f64, because the inverse solves a quadratic
//! equation. Other devices use a composition of candle's operations.
//!
//! This file has the settings ([`Spline`]). `curve` has one bin with its derivatives, `element` the
//! spline of one element, `op` the kernel for the CPU, and `composed` the composition for other
//! devices.

mod composed;
mod curve;
mod element;
mod op;

use crate::{Error, Result, has_kernel};
use candle_core::Tensor;
use op::Op;

/// Minimum width and height of a bin as a fraction of the total, and minimum slope between two
/// bins.
const MIN_SIZE: f64 = 1e-3;

/// Maximum number of bins, more than is needed in practice. The arrays of one element have this
/// length and are on the stack.
const MAX_BINS: usize = 64;

/// Returns the number of raw parameters of one element's spline: widths, heights and inner slopes
/// of the bins.
pub fn numbers_per_element(bins: usize) -> usize {
    3 * bins - 1
}

/// The settings of the splines: the number of bins and the bound B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spline {
    bins: usize,
    bound: f64,
}

impl Spline {
    /// Creates splines with `bins` bins on [−bound, bound].
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `bins` is from 2 to 64 and `bound` is finite and above 0.
    pub fn new(bins: usize, bound: f64) -> Result<Self> {
        let fits = (2..=MAX_BINS).contains(&bins) && bound.is_finite() && bound > 0.0;
        if !fits {
            return Err(Error::invalid(format!(
                "expected a spline with 2 to {MAX_BINS} bins and a finite bound above 0, found {bins} bins and bound {bound}"
            )));
        }
        Ok(Self { bins, bound })
    }

    /// Computes y and ln(dy/dx), both with the shape of `x` (batch, n). `raw` has shape
    /// (batch, n·(3·bins − 1)).
    pub fn forward(&self, x: &Tensor, raw: &Tensor) -> Result<(Tensor, Tensor)> {
        let (_, n) = x.dims2()?;
        if !has_kernel(x) {
            return self.composed_forward(x, raw);
        }
        let op = Op {
            spline: *self,
            inverse: false,
        };
        let both = x.contiguous()?.apply_op2(&raw.contiguous()?, op)?;
        Ok((both.narrow(1, 0, n)?, both.narrow(1, n, n)?))
    }

    /// Computes the x that [`Spline::forward`] maps to `y` (batch, n). `raw` is as in
    /// [`Spline::forward`].
    pub fn inverse(&self, y: &Tensor, raw: &Tensor) -> Result<Tensor> {
        if !has_kernel(y) {
            return self.composed_inverse(y, raw);
        }
        let op = Op {
            spline: *self,
            inverse: true,
        };
        Ok(y.contiguous()?.apply_op2(&raw.contiguous()?, op)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use candle_core::{DType, Device, Var};

    fn inputs(bins: usize) -> Result<(Var, Var)> {
        let mut rng = Rng::new(3);
        // Some values are inside the bounds, some outside.
        let x = (rng.normal((40, 5), &Device::Cpu)? * 2.0)?;
        let raw = rng.normal((40, 5 * numbers_per_element(bins)), &Device::Cpu)?;
        Ok((
            Var::from_tensor(&x.to_dtype(DType::F64)?)?,
            Var::from_tensor(&raw.to_dtype(DType::F64)?)?,
        ))
    }

    fn max_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
        Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
    }

    /// The CPU kernel and the composition for other devices compute the same map.
    #[test]
    fn both_ways_agree_in_values_and_gradients() -> Result<()> {
        for (bins, bound) in [(2, 1.0), (8, 3.0), (MAX_BINS, 4.0)] {
            let spline = Spline::new(bins, bound)?;
            let (x, raw) = inputs(bins)?;
            let weights = Rng::new(4).normal((40, 5), &Device::Cpu)?;
            let weights = weights.to_dtype(DType::F64)?;
            let forward = |(y, logdet): (Tensor, Tensor)| -> Result<Tensor> {
                Ok((y.sin()? + (logdet * &weights)?)?.sum_all()?)
            };
            let inverse = |x: Tensor| -> Result<Tensor> { Ok((x * &weights)?.sum_all()?) };
            for (one, other) in [
                (
                    forward(spline.forward(&x, &raw)?)?,
                    forward(spline.composed_forward(&x, &raw)?)?,
                ),
                (
                    inverse(spline.inverse(&x, &raw)?)?,
                    inverse(spline.composed_inverse(&x, &raw)?)?,
                ),
            ] {
                assert!(max_difference(&one, &other)? < 1e-8);
                let (ours, theirs) = (one.backward()?, other.backward()?);
                for var in [&x, &raw] {
                    let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                        panic!("a gradient is missing");
                    };
                    let difference = max_difference(a, b)?;
                    assert!(difference < 1e-7, "{bins} bins: difference {difference}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn zeros_are_the_identity_and_the_ends_are_smooth() -> Result<()> {
        let spline = Spline::new(8, 3.0)?;
        let (x, raw) = inputs(8)?;
        let (y, logdet) = spline.forward(&x, &raw.zeros_like()?)?;
        assert!(max_difference(&y, &x)? < 1e-12);
        assert!(max_difference(&logdet, &x.zeros_like()?)? < 1e-12);
        // The map is monotone, maps [−3, 3] into itself, and has a correct inverse.
        let numbers = raw.get(0)?.narrow(0, 0, numbers_per_element(8))?;
        let numbers: Vec<f64> = numbers.to_vec1()?;
        let mut last = f64::NEG_INFINITY;
        for i in -400..=400 {
            let x = f64::from(i) / 100.0;
            let (y, _) = spline.element(x, &numbers);
            assert!(y > last && y.abs() <= x.abs().max(3.0));
            assert!((spline.element_inverse(y, &numbers) - x).abs() < 1e-10);
            last = y;
        }
        // At the bound the slope is 1, as that of the identity.
        let (_, logdet) = spline.element(3.0 - 1e-9, &numbers);
        assert!(logdet.abs() < 1e-6, "{logdet}");
        // Raw values so large that each softmax is close to one-hot.
        let large: Vec<f64> = numbers.iter().map(|x| x * 1e4).collect();
        let (y, logdet) = spline.element(0.3, &large);
        assert!(y.is_finite() && logdet.is_finite());
        Ok(())
    }

    #[test]
    fn sizes_that_make_no_spline_are_refused() {
        for (bins, bound) in [(1, 3.0), (65, 3.0), (8, 0.0), (8, f64::NAN)] {
            assert!(Spline::new(bins, bound).is_err());
        }
    }
}
