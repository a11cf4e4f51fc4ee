//! Layer norm whose shift and scale depend on a condition, in one pass.

use crate::kernels::Real;
use crate::slices::numbers;
use crate::{Error, Result, has_kernel, widened};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;

struct Adaptive {
    width: usize,
    eps: f64,
}

impl Adaptive {
    /// `first` and `second` are the shifts, then the scales. The second has the rows of x or one row.
    fn kernel<T: Real>(&self, x: &[T], first: &[T], second: &[T]) -> Vec<T> {
        let width = self.width;
        let (count, eps) = (T::from_f64(width as f64), T::from_f64(self.eps));
        let halves = (first.len() / 2, second.len() / 2);
        let one_row = halves.1 == width;
        let mut out = x.to_vec();
        out.par_chunks_mut(width * ROWS)
            .enumerate()
            .for_each(|(task, rows)| {
                for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                    let at = (task * ROWS + i) * width;
                    let other = if one_row { 0 } else { at };
                    let mean = sum(row, |v| v) / count;
                    let squares = sum(row, |v| (v - mean) * (v - mean));
                    let factor = T::one() / Real::sqrt(squares / count + eps);
                    let shifts = first[at..].iter().zip(&second[other..]);
                    let scales = first[halves.0 + at..]
                        .iter()
                        .zip(&second[halves.1 + other..]);
                    for ((v, (&a, &b)), (&c, &d)) in row.iter_mut().zip(shifts).zip(scales) {
                        *v = (*v - mean) * factor * (T::one() + (c + d)) + (a + b);
                    }
                }
            });
        out
    }
}

/// Sums `f` of all elements, in eight sums that the compiler can vectorise.
fn sum<T: Real>(row: &[T], f: impl Fn(T) -> T) -> T {
    let mut sums = [T::zero(); 8];
    let (eights, rest) = row.as_chunks::<8>();
    for eight in eights {
        for (sum, &v) in sums.iter_mut().zip(eight) {
            *sum += f(v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(rest) {
        *sum += f(v);
    }
    sums.into_iter().fold(T::zero(), |a, b| a + b)
}

impl CustomOp3 for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive_layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        first: &CpuStorage,
        lf: &Layout,
        second: &CpuStorage,
        ls: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(
                numbers(x, lx)?,
                numbers(first, lf)?,
                numbers(second, ls)?,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(
                numbers(x, lx)?,
                numbers(first, lf)?,
                numbers(second, ls)?,
            )),
            other => bail!("adaptive_layer_norm has no kernel for {:?}", other.dtype()),
        };
        Ok((out, lx.shape().clone()))
    }
}

/// Applies a layer norm without learned parameters to x (rows, width), then scales and shifts it:
/// norm(x)·(1 + scale) + shift. Shift and scale are sums of two parts, `first` (2, rows, width) and
/// `second` (2, rows or 1, width), each the shifts, then the scales.
///
/// On the CPU, where nothing needs a gradient, it is one pass over x; otherwise candle's operations
/// are composed.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use invariances_ops::adaptive_layer_norm;
/// let x = Tensor::new(&[[1f64, 3.0]], &Device::Cpu)?;
/// let of_z = Tensor::new(&[[[0f64, 1.0]], [[1.0, 1.0]]], &Device::Cpu)?; // shifts, then scales
/// let of_time = Tensor::new(&[[[10f64, 10.0]], [[0.0, 1.0]]], &Device::Cpu)?;
/// let y = adaptive_layer_norm(&x, &of_z, &of_time, 0.0)?;
/// assert_eq!(y.to_vec2::<f64>()?, [[-1.0 * 2.0 + 10.0, 1.0 * 3.0 + 11.0]]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match.
pub fn adaptive_layer_norm(
    x: &Tensor,
    first: &Tensor,
    second: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let fits = match (x.dims(), first.dims(), second.dims()) {
        ([rows, width], [2, a, b], [2, c, d]) => {
            *width > 0 && a == rows && b == width && (c == rows || *c == 1) && d == width
        }
        _ => false,
    };
    if !fits {
        return Err(Error::shape(format!(
            "adaptive layer norm: expected x of shape (rows, width), shifts and scales of shape \
             (2, rows, width) and others of shape (2, rows or 1, width), found {:?}, {:?} and {:?}",
            x.dims(),
            first.dims(),
            second.dims()
        )));
    }
    let all = [x, first, second];
    let cpu = all.iter().all(|t| has_kernel(t) && !t.track_op());
    if cpu && all.iter().all(|t| t.dtype() == x.dtype()) {
        let op = Adaptive {
            width: x.dim(1)?,
            eps,
        };
        let [x, first, second] = [x.contiguous()?, first.contiguous()?, second.contiguous()?];
        return Ok(x.apply_op3_no_bwd(&first, &second, &op)?);
    }
    let own = x.dtype();
    let [x, first, second] = [widened(x)?, widened(first)?, widened(second)?];
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_mul(&(variance + eps)?.sqrt()?.recip()?)?;
    let sums = first.broadcast_add(&second)?;
    let y = ((normed * (sums.get(1)? + 1.0)?)? + sums.get(0)?)?;
    Ok(y.to_dtype(own)?)
}
