//! The principal components of z, as the classifier and HSIC see it.

use crate::ops::{Rng, values, widened};
use crate::{Error, Result};
use candle_core::Tensor;
use nalgebra::DMatrix;

/// The largest number of components.
const COMPONENTS: usize = 64;

/// Components whose standard deviation is below this fraction of the largest are left out: in f32
/// they can be rounding errors.
const SMALLEST: f64 = 1e-3;

/// Values of components are limited to this number of standard deviations.
const LIMIT: f64 = 6.0;

/// Returns the first principal components of the standardized columns of z (n, …), each with
/// variance 1: (n, at most 64). A randomized method finds them (Halko et al. 2011,
/// [arXiv 0909.4061](https://arxiv.org/abs/0909.4061)), since z can have thousands of columns.
pub(super) fn components(z: &Tensor, seed: u64) -> Result<Tensor> {
    let z = widened(&z.detach())?.flatten_from(1)?;
    let (n, columns) = z.dims2()?;
    let mean = z.mean_keepdim(0)?;
    let centred = z.broadcast_sub(&mean)?;
    let deviation = centred.sqr()?.mean_keepdim(0)?.sqrt()?;
    let deviations = values(&deviation)?;
    let largest = deviations.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 || deviations.iter().any(|d| !d.is_finite()) {
        return Err(Error::invalid(
            "expected finite representations z that differ between images, found none that vary: \
             check the layer",
        ));
    }
    // A column that hardly varies is not enlarged to the size of the others.
    let z = centred.broadcast_div(&deviation.maximum(largest * SMALLEST)?)?;
    let rank = columns.min(n).min(COMPONENTS + 8);
    let mut rng = Rng::named(seed, "components of z");
    let start = rng.normal((columns, rank), z.device())?;
    let mut range = z.matmul(&start.to_dtype(z.dtype())?)?;
    for _ in 0..2 {
        let basis = orthonormal(&range)?;
        range = z.matmul(&z.t()?.contiguous()?.matmul(&basis)?)?;
    }
    let basis = orthonormal(&range)?;
    let small = basis.t()?.contiguous()?.matmul(&z)?;
    let square = small.matmul(&small.t()?.contiguous()?)?;
    let square = DMatrix::from_row_slice(rank, rank, &values(&square)?);
    let eigen = ((&square + square.transpose()) * 0.5).symmetric_eigen();
    let mut order: Vec<usize> = (0..rank).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let first = order.first().map_or(0.0, |i| eigen.eigenvalues[*i]);
    order.retain(|i| eigen.eigenvalues[*i] > first * SMALLEST * SMALLEST);
    order.truncate(COMPONENTS);
    // The left singular vectors of z, times √n, are the components with variance 1.
    let mut rotation = vec![0f64; rank * order.len()];
    for (row, chunk) in rotation.chunks_mut(order.len().max(1)).enumerate() {
        for (value, column) in chunk.iter_mut().zip(&order) {
            *value = eigen.eigenvectors[(row, *column)] * (n as f64).sqrt();
        }
    }
    let rotation = Tensor::from_vec(rotation, (rank, order.len()), z.device())?;
    let found = basis.matmul(&rotation.to_dtype(z.dtype())?)?;
    Ok(found.clamp(-LIMIT, LIMIT)?)
}

/// Returns an orthonormal basis of the columns of x (n, r).
fn orthonormal(x: &Tensor) -> Result<Tensor> {
    let (n, r) = x.dims2()?;
    let q = DMatrix::from_row_slice(n, r, &values(x)?).qr().q();
    // nalgebra stores columns one after the other.
    let columns = Tensor::from_vec(q.as_slice().to_vec(), (r, n), x.device())?;
    Ok(columns.to_dtype(x.dtype())?.t()?.contiguous()?)
}
