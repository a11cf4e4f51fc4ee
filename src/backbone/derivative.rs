//! Derivatives of a scalar function of a tensor along directions, with the uncertainty of the
//! numeric derivative.

use super::gradients::{GradientCheck, GradientVerdict};
use crate::Result;
use crate::ops::scalar;
use candle_core::Tensor;

/// The sum of a tensor's elements.
pub(super) fn sum(x: &Tensor) -> Result<f64> {
    scalar(&x.sum_all()?)
}

pub(super) fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    sum(&(a * b)?)
}

/// The root mean square of a tensor's elements.
pub(super) fn rms(x: &Tensor) -> Result<f64> {
    Ok((sum(&x.sqr()?)? / x.elem_count().max(1) as f64).sqrt())
}

/// The function L(x) = w·y(x) near a point.
pub(super) struct Point<'a> {
    pub(super) forward: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    /// x.
    pub(super) at: &'a Tensor,
    /// y(x).
    pub(super) y: &'a Tensor,
    /// w.
    pub(super) weights: &'a Tensor,
    /// The gradient of L to be checked.
    pub(super) gradient: &'a Tensor,
    /// The rounding error of L.
    pub(super) rounding: f64,
}

impl Point<'_> {
    /// Compares the derivative along `direction` with the numeric one, and adds the result to
    /// `found`.
    pub(super) fn compare_along(&self, direction: &Tensor, found: &mut Along) -> Result<()> {
        let step = found.step;
        let change = |by: f64| -> Result<f64> {
            let moved = (self.forward)(&(self.at + (direction * by)?)?)?;
            dot(self.weights, &(moved - self.y)?)
        };
        let (up, down) = (change(step)?, change(-step)?);
        let numeric = (up - down) / (2.0 * step);
        let automatic = dot(self.gradient, direction)?;
        let rounding = self.rounding / step;
        let uncertain = (up + down).abs() / (2.0 * step) + rounding;
        found.automatic += automatic.powi(2);
        found.numeric += numeric.powi(2);
        found.deviation += (automatic - numeric).powi(2);
        found.uncertain += uncertain.powi(2);
        found.rounding += rounding.powi(2);
        Ok(())
    }
}

/// Derivatives along several directions with the same step, as sums of squares.
pub(super) struct Along {
    step: f64,
    automatic: f64,
    numeric: f64,
    deviation: f64,
    uncertain: f64,
    rounding: f64,
}

impl Along {
    /// Sums over no direction yet.
    pub(super) fn new(step: f64) -> Self {
        Self {
            step,
            automatic: 0.0,
            numeric: 0.0,
            deviation: 0.0,
            uncertain: 0.0,
            rounding: 0.0,
        }
    }

    fn size(&self) -> f64 {
        self.automatic.max(self.numeric)
    }

    /// Whether both derivatives are zero, up to rounding.
    pub(super) fn is_zero(&self) -> bool {
        self.deviation.is_finite() && self.size() <= self.rounding
    }

    /// Whether there is a finite, nonzero derivative.
    pub(super) fn is_usable(&self) -> bool {
        self.deviation.is_finite() && self.uncertain.is_finite() && !self.is_zero()
    }

    /// The difference of the two derivatives, relative to the larger one.
    pub(super) fn difference(&self) -> f64 {
        (self.deviation / self.size()).sqrt()
    }

    /// The uncertainty of the numeric derivative, relative to the larger of the two.
    pub(super) fn uncertainty(&self) -> f64 {
        (self.uncertain / self.size()).sqrt()
    }

    pub(super) fn check(&self, verdict: GradientVerdict) -> GradientCheck {
        GradientCheck {
            verdict,
            difference: self.difference(),
            uncertainty: self.uncertainty(),
        }
    }
}
