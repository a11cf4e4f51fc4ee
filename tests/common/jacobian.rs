//! The log-determinant of a flow by central differences.

use invariances::Result;
use invariances::candle_core::{DType, Device, Tensor};
use invariances::flow::Flow;
use nalgebra::DMatrix;

/// The largest absolute value.
pub fn largest(x: &Tensor) -> Result<f64> {
    let x = x.to_dtype(DType::F64)?.abs()?.flatten_all()?;
    Ok(x.max(0)?.to_scalar()?)
}

/// log|det ∂v/∂x| of one `x` (1, n) in f64 by central differences.
pub fn numeric_logdet(flow: &dyn Flow, x: &Tensor, condition: Option<&Tensor>) -> Result<f64> {
    let values: Vec<f64> = x.flatten_all()?.to_vec1()?;
    let (n, h) = (values.len(), 1e-6);
    let mut jacobian = DMatrix::zeros(n, n);
    for i in 0..n {
        let moved = |by: f64| -> Result<Vec<f64>> {
            let mut v = values.clone();
            v[i] += by;
            let x = Tensor::from_vec(v, x.shape(), &Device::Cpu)?;
            Ok(flow.latent(&x, condition)?.flatten_all()?.to_vec1()?)
        };
        for (j, (up, down)) in moved(h)?.iter().zip(moved(-h)?).enumerate() {
            jacobian[(j, i)] = (up - down) / (2.0 * h);
        }
    }
    Ok(jacobian.determinant().abs().ln())
}
