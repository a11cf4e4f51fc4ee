//! A double coupling that transforms each dimension of the code by a monotone spline.

use super::coupling::check_sizes;
use super::layer::{Layer, detached, net};
use super::{Flow, required, rows};
use crate::ops::coupling::{Layers, SLOPE};
use crate::ops::spline::{Spline, numbers_per_element};
use crate::ops::{Activation, Scope, dense};
use crate::{Error, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// A double coupling that transforms each dimension of a half by its own monotone
/// rational-quadratic spline (Durkan et al. 2019,
/// [arXiv 1906.04032](https://arxiv.org/abs/1906.04032), section 3).
///
/// As in [`super::AffineCoupling`], a net takes one half and the condition and predicts the
/// transformation of the other half; then the two halves swap roles. A code of odd size has the
/// larger half first. The splines act on [−bound, bound] and are the identity outside. If a net's
/// output is 0, its splines are the identity everywhere. Unlike an affine coupling, a spline can
/// turn one mode into several in a single step, and its bins limit how much a step stretches.
///
/// The parameters are `spline.0` and `spline.1`, each with `main.0`, `main.2`, …, each of these
/// with `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct SplineCoupling {
    code: usize,
    condition: usize,
    first: usize,
    spline: Spline,
    nets: [Layers; 2],
}

impl SplineCoupling {
    /// Creates a coupling for codes of size `code` and conditions of size `condition` (0 for
    /// none). The nets have width `hidden` and `depth` + 1 hidden layers; the splines have `bins`
    /// bins on [−`bound`, `bound`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if `code` is less than 2, `hidden` is 0, `bins` is less than 2 or more
    /// than 64, or `bound` is not above 0.
    pub fn new(
        code: usize,
        condition: usize,
        hidden: usize,
        depth: usize,
        (bins, bound): (usize, f64),
        scope: &Scope,
    ) -> Result<Self> {
        check_sizes(code, hidden)?;
        let spline = Spline::new(bins, bound)?;
        let first = code.div_ceil(2);
        let halves = [first, code - first];
        let net = |i: usize| {
            let (inputs, changed) = (halves[i] + condition, halves[1 - i]);
            let outputs = changed * numbers_per_element(bins);
            net(inputs, outputs, hidden, depth, &scope.pp("spline").pp(i))
        };
        Ok(Self {
            code,
            condition,
            first,
            spline,
            nets: [net(0)?, net(1)?],
        })
    }

    fn checked(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Option<Tensor>> {
        let batch = rows(x, self.code, "codes")?;
        if self.condition == 0 {
            return Ok(None);
        }
        let c = required(condition, "a conditional coupling")?;
        let conditions = rows(c, self.condition, "conditions")?;
        if conditions != batch {
            return Err(Error::shape(format!(
                "expected one condition per code, found {conditions} conditions for {batch} codes"
            )));
        }
        Ok(Some(c.clone()))
    }

    /// Returns the spline parameters of the other half, as predicted by the net of half-step `i`.
    fn spline_parameters(
        &self,
        i: usize,
        half: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut h = match condition {
            None => half.contiguous()?,
            Some(c) => Tensor::cat(&[half, c], 1)?,
        };
        let layers = &self.nets[i];
        for (l, (weight, bias)) in layers.iter().enumerate() {
            let activation = if l + 1 < layers.len() {
                Activation::Leaky(SLOPE)
            } else {
                Activation::None
            };
            h = dense(&h, weight, bias, activation)?;
        }
        Ok(h)
    }
}

impl Flow for SplineCoupling {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let c = self.checked(x, condition)?;
        let a = x.narrow(1, 0, self.first)?;
        let b = x.narrow(1, self.first, self.code - self.first)?;
        let (b, logdet0) = self
            .spline
            .forward(&b, &self.spline_parameters(0, &a, c.as_ref())?)?;
        let (a, logdet1) = self
            .spline
            .forward(&a, &self.spline_parameters(1, &b, c.as_ref())?)?;
        let logdet = (logdet0.sum(1)? + logdet1.sum(1)?)?;
        Ok((Tensor::cat(&[b, a], 1)?, logdet))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let c = self.checked(v, condition)?;
        let second = self.code - self.first;
        let b = v.narrow(1, 0, second)?;
        let a = v.narrow(1, second, self.first)?;
        let a = self
            .spline
            .inverse(&a, &self.spline_parameters(1, &b, c.as_ref())?)?;
        let b = self
            .spline
            .inverse(&b, &self.spline_parameters(0, &a, c.as_ref())?)?;
        Ok(Tensor::cat(&[a, b], 1)?)
    }

    fn code(&self) -> Option<usize> {
        Some(self.code)
    }
}

impl Layer for SplineCoupling {
    fn parameters(&self) -> Vec<Tensor> {
        let layers = self.nets.iter().flatten();
        layers.flat_map(|(w, b)| [w.clone(), b.clone()]).collect()
    }

    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(Self {
            nets: [0, 1].map(|i| detached(&self.nets[i])),
            ..self.clone()
        })
    }
}
