//! Splines as one operation on the CPU with a gradient.

use super::{Spline, numbers_per_element};
use crate::kernels::Real;
use crate::slices::{numbers, slice};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

pub(super) struct Op {
    pub(super) spline: Spline,
    pub(super) inverse: bool,
}

/// Number of rows per parallel task.
const ROWS: usize = 16;

impl Op {
    fn kernel<T: Real>(&self, x: &[T], raw: &[T], n: usize) -> Vec<T> {
        let each = numbers_per_element(self.spline.bins);
        let width = if self.inverse { n } else { 2 * n };
        let mut out = vec![T::zero(); x.len() / n.max(1) * width];
        let parts = out.par_chunks_mut((ROWS * width).max(1));
        let parts = parts.zip(x.par_chunks((ROWS * n).max(1)));
        let parts = parts.zip(raw.par_chunks((ROWS * n * each).max(1)));
        parts.for_each(|((out, x), raw)| {
            for (r, row) in out.chunks_exact_mut(width).enumerate() {
                for k in 0..n {
                    let at = r * n + k;
                    let raw = &raw[at * each..(at + 1) * each];
                    let x = x[at].to_f64();
                    if self.inverse {
                        row[k] = T::from_f64(self.spline.element_inverse(x, raw));
                    } else {
                        let (y, logdet) = self.spline.element(x, raw);
                        row[k] = T::from_f64(y);
                        row[n + k] = T::from_f64(logdet);
                    }
                }
            }
        });
        out
    }

    /// Returns the gradients of x and of the raw parameters.
    fn backward<T: Real>(
        &self,
        x: &[T],
        raw: &[T],
        out: &[T],
        to_out: &[T],
        n: usize,
    ) -> [Vec<T>; 2] {
        let each = numbers_per_element(self.spline.bins);
        let width = if self.inverse { n } else { 2 * n };
        let mut to_x = vec![T::zero(); x.len()];
        let mut to_raw = vec![T::zero(); raw.len()];
        let parts = to_x
            .par_chunks_mut(n.max(1))
            .zip(to_raw.par_chunks_mut((n * each).max(1)));
        parts.enumerate().for_each(|(r, (to_x, to_raw))| {
            for k in 0..n {
                let at = r * n + k;
                let raw = &raw[at * each..(at + 1) * each];
                let to_raw = &mut to_raw[k * each..(k + 1) * each];
                let g = to_out[r * width + k].to_f64();
                let gradient = if self.inverse {
                    // x = g⁻¹(y): ∂x/∂y = 1/g′(x) and ∂x/∂θ = −(∂g/∂θ)/g′(x).
                    let found = out[r * width + k].to_f64();
                    let (_, logdet) = self.spline.element(found, raw);
                    let by = g * (-logdet).exp();
                    self.spline.gradient(found, raw, -by, 0.0, to_raw);
                    by
                } else {
                    let to_logdet = to_out[r * width + n + k].to_f64();
                    let x = x[at].to_f64();
                    self.spline.gradient(x, raw, g, to_logdet, to_raw)
                };
                to_x[k] = T::from_f64(gradient);
            }
        });
        [to_x, to_raw]
    }

    fn gradients<T: Real + WithDType>(
        &self,
        x: &Tensor,
        raw: &Tensor,
        out: &Tensor,
        to_out: &Tensor,
    ) -> candle_core::Result<[Tensor; 2]> {
        let (_, n) = x.dims2()?;
        let tensors = [x, raw, out, to_out].map(|t| t.storage_and_layout());
        let mut values = Vec::with_capacity(4);
        for (storage, layout) in &tensors {
            values.push(slice::<T>(storage, layout)?);
        }
        let [to_x, to_raw] = self.backward(values[0], values[1], values[2], values[3], n);
        Ok([
            Tensor::from_vec(to_x, x.shape(), x.device())?,
            Tensor::from_vec(to_raw, raw.shape(), raw.device())?,
        ])
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "rational-quadratic-spline"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        raw: &CpuStorage,
        rl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, n) = xl.shape().dims2()?;
        if rl.shape().elem_count() != batch * n * numbers_per_element(self.spline.bins) {
            bail!(
                "splines: expected {1} parameters for each element of a tensor of shape {0:?}, found parameters of shape {2:?}",
                xl.shape(),
                numbers_per_element(self.spline.bins),
                rl.shape()
            );
        }
        let out = match x {
            CpuStorage::F32(_) => {
                CpuStorage::F32(self.kernel::<f32>(numbers(x, xl)?, numbers(raw, rl)?, n))
            }
            CpuStorage::F64(_) => {
                CpuStorage::F64(self.kernel::<f64>(numbers(x, xl)?, numbers(raw, rl)?, n))
            }
            other => bail!("splines: no kernel for {:?}", other.dtype()),
        };
        let width = if self.inverse { n } else { 2 * n };
        Ok((out, (batch, width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        raw: &Tensor,
        out: &Tensor,
        to_out: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let to_out = to_out.contiguous()?;
        let [to_x, to_raw] = match x.dtype() {
            DType::F64 => self.gradients::<f64>(x, raw, out, &to_out)?,
            _ => self.gradients::<f32>(x, raw, out, &to_out)?,
        };
        Ok((
            x.track_op().then_some(to_x),
            raw.track_op().then_some(to_raw),
        ))
    }
}
