//! A learned invertible linear map of the code, parametrised by LU factors.

use super::layer::Layer;
use super::{Flow, rows};
use crate::ops::{Init, Placement, Scope, values};
use crate::outline::{parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// A learned linear map of the code, v = P·L·(U + S)·x, used instead of a fixed permutation. It
/// is the invertible 1×1 convolution of Kingma, Dhariwal 2018
/// ([arXiv 1807.03039](https://arxiv.org/abs/1807.03039), section 3.2) in its LU parametrisation,
/// with S = diag(±exp(log_scale)). It is initialised as a random permutation.
///
/// log|det| = Σ log_scale. The parameters are `lower`, of which only the elements below the
/// diagonal are used, `upper`, of which only those above it are used, both (code, code), and
/// `log_scale` (code,). The buffers are `order` (the permutation P) and `sign`, both (code,).
#[derive(Clone)]
pub struct LuMixing {
    code: usize,
    lower: Tensor,
    upper: Tensor,
    log_scale: Tensor,
    order: Tensor,
    sign: Tensor,
    /// A mask: 1 below the diagonal, 0 elsewhere. `diagonal` is the identity matrix.
    below: Tensor,
    diagonal: Tensor,
}

impl LuMixing {
    /// Creates the map for a code of this size; P is drawn from the seed and the scope's name.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `code` is 0; [`Error::Shape`] if parameters of these names exist with
    /// another shape.
    pub fn new(code: usize, scope: &Scope) -> Result<Self> {
        if code == 0 {
            return Err(Error::invalid(
                "expected a code of at least 1 element for a linear map, found 0",
            ));
        }
        let (dtype, device) = (scope.dtype(), scope.device());
        let order = scope.rng("order").permutation(code);
        let order = Tensor::from_vec(order, code, device)?;
        let square = |keep: fn(usize, usize) -> bool| -> Result<Tensor> {
            let values = (0..code * code).map(|at| f32::from(keep(at / code, at % code)));
            let values: Vec<f32> = values.collect();
            Ok(Tensor::from_vec(values, (code, code), device)?.to_dtype(dtype)?)
        };
        let zeros = |shape: &[usize], name: &str| -> Result<Tensor> {
            Ok(scope
                .get(shape, name, Init::Const(0.0))?
                .as_tensor()
                .clone())
        };
        Ok(Self {
            code,
            lower: zeros(&[code, code], "lower")?,
            upper: zeros(&[code, code], "upper")?,
            log_scale: zeros(&[code], "log_scale")?,
            order: scope.indices_from(&order, "order")?.as_detached_tensor(),
            sign: scope
                .buffer(code, "sign", Init::Const(1.0))?
                .as_detached_tensor(),
            below: square(|i, j| j < i)?,
            diagonal: square(|i, j| i == j)?,
        })
    }

    /// Returns L·(U + S), (code, code).
    fn matrix(&self) -> Result<Tensor> {
        let lower = ((&self.lower * &self.below)? + &self.diagonal)?;
        let scale = (self.log_scale.exp()? * &self.sign)?;
        let upper = (&self.upper * self.below.t()?.contiguous()?)?;
        let upper = (upper + self.diagonal.broadcast_mul(&scale)?)?;
        Ok(lower.matmul(&upper)?)
    }

    /// Returns the inverse of L·(U + S), computed in f64 on the CPU, detached from any graph.
    fn inverse_matrix(&self) -> Result<Tensor> {
        let n = self.code;
        let (lower, upper) = (values(&self.lower)?, values(&self.upper)?);
        let scale: Vec<f64> = values(&self.log_scale)?
            .iter()
            .zip(values(&self.sign)?)
            .map(|(l, sign)| l.exp() * sign)
            .collect();
        // Forward substitution, row by row, solves L·Y = 1; backward substitution then solves
        // (U + S)·X = Y.
        let mut x = vec![0.0; n * n];
        for i in 0..n {
            let (done, rest) = x.split_at_mut(i * n);
            let row = &mut rest[..n];
            row[i] = 1.0;
            for (j, other) in done.chunks_exact(n).enumerate() {
                let factor = lower[i * n + j];
                row.iter_mut()
                    .zip(other)
                    .for_each(|(r, o)| *r -= factor * o);
            }
        }
        for i in (0..n).rev() {
            let (before, done) = x.split_at_mut((i + 1) * n);
            let row = &mut before[i * n..];
            for (j, other) in done.chunks_exact(n).enumerate() {
                let factor = upper[i * n + i + 1 + j];
                row.iter_mut()
                    .zip(other)
                    .for_each(|(r, o)| *r -= factor * o);
            }
            row.iter_mut().for_each(|r| *r /= scale[i]);
        }
        let x = Tensor::from_vec(x, (n, n), &Device::Cpu)?;
        Ok(x.to_dtype(self.lower.dtype())?
            .to_device(self.lower.device())?)
    }

    /// Returns the permutation P and its inverse, as indices.
    fn orders(&self) -> Result<(Tensor, Tensor)> {
        let order = self.order.to_dtype(DType::U32)?;
        let forward: Vec<u32> = order.to_device(&Device::Cpu)?.to_vec1()?;
        let mut back = vec![0u32; self.code];
        for (i, &j) in forward.iter().enumerate() {
            let place = back.get_mut(j as usize).ok_or_else(|| {
                Error::invalid(format!(
                    "expected indices below {} in the buffer `order` of a linear map, found {j}: \
                     the checkpoint is damaged",
                    self.code
                ))
            })?;
            *place = i as u32;
        }
        Ok((
            order,
            Tensor::from_vec(back, self.code, self.order.device())?,
        ))
    }
}

impl Flow for LuMixing {
    fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let batch = rows(x, self.code, "codes")?;
        let (order, _) = self.orders()?;
        let v = x.contiguous()?.matmul(&self.matrix()?.t()?)?;
        let logdet = self.log_scale.sum_all()?.broadcast_as(batch)?;
        Ok((v.index_select(&order, 1)?, logdet))
    }

    fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        rows(v, self.code, "v")?;
        let (_, back) = self.orders()?;
        let v = v.contiguous()?.index_select(&back, 1)?;
        let inverse = self.inverse_matrix()?.t()?.contiguous()?;
        let x = v.detach().matmul(&inverse)?;
        // One step of Newton's method. It removes rounding errors, and its graph has the
        // gradients of the inverse, ∂x/∂v and ∂x/∂(matrix), on every device.
        let residual = (v - x.matmul(&self.matrix()?.t()?)?)?;
        Ok((x + residual.matmul(&inverse)?)?)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.code)
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement::of(&self.lower))
    }

    fn outline(&self) -> Outline {
        let own = parameters_of(&self.parameters());
        Outline::new(format!("LuMixing({})", self.code)).with_parameters(own)
    }
}

shows_outline!(LuMixing);

impl Layer for LuMixing {
    fn parameters(&self) -> Vec<Tensor> {
        vec![
            self.lower.clone(),
            self.upper.clone(),
            self.log_scale.clone(),
        ]
    }

    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(Self {
            lower: self.lower.detach(),
            upper: self.upper.detach(),
            log_scale: self.log_scale.detach(),
            ..self.clone()
        })
    }
}
