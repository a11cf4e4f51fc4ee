//! A conditional Gaussian with a known t: codes z̄ = z·A + b + ξ·B with ξ ~ N(0, 1), so that
//! t(z̄ | z) = (z̄ − z·A − b)·B⁻¹ is exact. It can also be fitted to data by least squares.

// Each test that has this file needs another part of it.
#![allow(dead_code)]

use invariances::candle_core::{Device, Tensor};
use invariances::flow::Flow;
use invariances::ops::{Rng, values};
use invariances::{Error, Result};
use nalgebra::DMatrix;

/// A Gaussian whose mean is a linear function of z.
pub struct Gaussian {
    a: Tensor,
    bias: Tensor,
    b: Tensor,
    inverse_b: Tensor,
    logdet: f64,
}

fn tensor(m: &DMatrix<f64>) -> Result<Tensor> {
    let rows: Vec<f32> = m.transpose().iter().map(|v| *v as f32).collect();
    Ok(Tensor::from_vec(
        rows,
        (m.nrows(), m.ncols()),
        &Device::Cpu,
    )?)
}

fn matrix(t: &Tensor) -> Result<DMatrix<f64>> {
    let (rows, columns) = t.dims2()?;
    Ok(DMatrix::from_row_slice(rows, columns, &values(t)?))
}

impl Gaussian {
    fn from(a: &DMatrix<f64>, bias: &DMatrix<f64>, b: &DMatrix<f64>) -> Result<Self> {
        let inverse = b.clone().try_inverse();
        let inverse = inverse.ok_or_else(|| Error::invalid("singular covariance"))?;
        Ok(Self {
            a: tensor(a)?,
            bias: tensor(bias)?,
            b: tensor(b)?,
            inverse_b: tensor(&inverse)?,
            logdet: -b.determinant().abs().ln(),
        })
    }

    /// Draws A and B such that z and ξ have equal shares of the variance of the code on average. B is
    /// a rotation times scales from 0.6 to 1.4, so that its inverse is exact in f32.
    pub fn random(dim: usize, conditions: usize, seed: u64) -> Result<Self> {
        let mut rng = Rng::named(seed, "a conditional Gaussian");
        let a = matrix(&rng.normal((conditions, dim), &Device::Cpu)?)? / (conditions as f64).sqrt();
        let rotation = matrix(&rng.normal((dim, dim), &Device::Cpu)?)?.qr().q();
        let scales: Vec<f64> = (0..dim)
            .map(|i| 0.6 + 0.8 * i as f64 / (dim.max(2) - 1) as f64)
            .collect();
        let square = scales.iter().map(|s| s * s).sum::<f64>() / dim as f64;
        let scales = DMatrix::from_diagonal(&(nalgebra::DVector::from_vec(scales) / square.sqrt()));
        Self::from(&a, &DMatrix::zeros(1, dim), &(rotation * scales))
    }

    /// Fits mean and covariance to codes (n, d), given z (n, m) or without z.
    pub fn fit(code: &Tensor, z: Option<&Tensor>, conditions: usize) -> Result<Self> {
        let x = matrix(code)?;
        let (n, dim) = x.shape();
        let ones = DMatrix::from_element(n, 1, 1.0);
        let inputs = match z {
            Some(z) => {
                let z = matrix(z)?;
                let mut inputs = ones.resize_horizontally(1 + z.ncols(), 0.0);
                inputs.columns_mut(1, z.ncols()).copy_from(&z);
                inputs
            }
            None => ones,
        };
        let square = inputs.transpose() * &inputs;
        let inverse = square.try_inverse();
        let inverse = inverse.ok_or_else(|| Error::invalid("singular inputs"))?;
        let weights = inverse * inputs.transpose() * &x;
        let residual = &x - &inputs * &weights;
        let covariance = residual.transpose() * &residual / (n - inputs.ncols()) as f64;
        let b = covariance.cholesky();
        let b = b
            .ok_or_else(|| Error::invalid("covariance"))?
            .l()
            .transpose();
        let a = match weights.nrows() {
            1 => DMatrix::zeros(conditions, dim),
            rows => weights.rows(1, rows - 1).into_owned(),
        };
        Self::from(&a, &weights.rows(0, 1).into_owned(), &b)
    }

    /// Draws z (n, m) and codes (n, d).
    pub fn draw(&self, n: usize, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        let (conditions, dim) = self.a.dims2()?;
        let z = rng.normal((n, conditions), &Device::Cpu)?;
        let v = rng.normal((n, dim), &Device::Cpu)?;
        Ok((self.inverse(&v, Some(&z))?, z))
    }

    fn mean(&self, z: Option<&Tensor>) -> Result<Tensor> {
        let z = z.ok_or_else(|| Error::invalid("expected z"))?;
        Ok(z.matmul(&self.a)?.broadcast_add(&self.bias)?)
    }
}

impl Flow for Gaussian {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let v = (x - self.mean(condition)?)?.matmul(&self.inverse_b)?;
        let logdet = Tensor::full(self.logdet as f32, x.dim(0)?, x.device())?;
        Ok((v, logdet))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok((v.matmul(&self.b)? + self.mean(condition)?)?)
    }

    fn dim(&self) -> Option<usize> {
        self.b.dims().first().copied()
    }
}
