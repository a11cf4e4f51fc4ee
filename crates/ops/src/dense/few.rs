//! The products of a dense layer for few rows, forward and backward: transposed first, with shares
//! of the outputs or inputs in parallel.

use super::Dense;
use crate::Activation;
use crate::kernels::Real;
use crate::kernels::product::{Matrix, product, product_new};
use crate::slices::numbers;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, bail};
use rayon::prelude::*;

/// Up to this number of rows, transposing the input first makes the product with a weight faster.
pub(super) const FEW: usize = 128;

/// Up to this number of rows, computing the gradient of the input takes no longer than reading
/// the weight.
const HANDFUL: usize = 8;

/// Number of outputs (or inputs) that one thread computes at a time for few rows. It is fixed, so
/// that sums do not depend on the number of threads.
const SHARE: usize = 128;

/// Transposes (rows, width) to (width, rows).
fn turned<T: Copy + Default>(x: &[T], width: usize) -> Vec<T> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    let mut out = vec![T::default(); x.len()];
    // In tiles, so that source and target both stay in a core's cache.
    for from in (0..width).step_by(32) {
        for (r, row) in x.chunks_exact(width.max(1)).enumerate() {
            for (f, &value) in row.iter().enumerate().skip(from).take(32) {
                out[f * rows + r] = value;
            }
        }
    }
    out
}

impl Dense {
    /// The layer for few rows: weight · xᵀ, with shares of the outputs in parallel.
    pub(super) fn few<T: Real>(&self, x: &[T], weight: &[T], bias: &[T], inputs: usize) -> Vec<T> {
        let rows = x.len() / inputs.max(1);
        if rows == 0 {
            return Vec::new();
        }
        let x = turned(x, inputs);
        let mut out: Vec<T> = Vec::with_capacity(bias.len() * rows);
        bias.iter().for_each(|&b| out.resize(out.len() + rows, b));
        let slope = match self.0 {
            Activation::None => T::one(),
            Activation::Leaky(slope) => T::from_f64(slope),
        };
        let shares = out.par_chunks_mut(SHARE * rows);
        shares
            .zip(weight.par_chunks(SHARE * inputs))
            .for_each(|(out, weight)| {
                let a = Matrix {
                    values: weight,
                    row: inputs,
                    column: 1,
                };
                let b = Matrix {
                    values: &x,
                    row: rows,
                    column: 1,
                };
                product((out.len() / rows, rows, inputs), a, b, out, rows, true);
                if self.0 != Activation::None {
                    for y in out {
                        *y *= if *y > T::zero() { T::one() } else { slope };
                    }
                }
            });
        turned(&out, rows)
    }
}

/// gradient (rows, outputs) · weight, for few rows: (rows, inputs).
pub(super) struct ToInput;

impl ToInput {
    fn kernel<T: Real>(gradient: &[T], weight: &[T], outputs: usize) -> Vec<T> {
        let rows = gradient.len() / outputs.max(1);
        let inputs = weight.len() / outputs.max(1);
        if rows <= HANDFUL {
            return Self::handful(gradient, weight, outputs);
        }
        let gradient = turned(gradient, outputs);
        let mut out = vec![T::zero(); inputs * rows];
        let shares = out.par_chunks_mut(SHARE * rows).enumerate();
        shares.for_each(|(i, out)| {
            let a = Matrix {
                values: &weight[i * SHARE..],
                row: 1,
                column: inputs,
            };
            let b = Matrix {
                values: &gradient,
                row: rows,
                column: 1,
            };
            product((out.len() / rows, rows, outputs), a, b, out, rows, false);
        });
        turned(&out, rows)
    }

    /// For so few rows that reading the weight takes all the time: reads it along its rows, with
    /// shares of the inputs in parallel.
    fn handful<T: Real>(gradient: &[T], weight: &[T], outputs: usize) -> Vec<T> {
        let rows = gradient.len() / outputs.max(1);
        let inputs = weight.len() / outputs.max(1);
        let starts: Vec<usize> = (0..inputs).step_by(4 * SHARE).collect();
        let shares = starts.par_iter().map(|&from| {
            let a = Matrix {
                values: gradient,
                row: outputs,
                column: 1,
            };
            let b = Matrix {
                values: &weight[from..],
                row: inputs,
                column: 1,
            };
            product_new((rows, (4 * SHARE).min(inputs - from), outputs), a, b)
        });
        let shares: Vec<Vec<T>> = shares.collect();
        let mut out = vec![T::zero(); rows * inputs];
        for (&from, share) in starts.iter().zip(&shares) {
            let width = share.len() / rows.max(1);
            for (out, share) in out.chunks_mut(inputs).zip(share.chunks(width.max(1))) {
                out[from..from + width].copy_from_slice(share);
            }
        }
        out
    }
}

impl CustomOp2 for ToInput {
    fn name(&self) -> &'static str {
        "dense_to_input"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        lg: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, outputs) = lg.shape().dims2()?;
        let (_, inputs) = lw.shape().dims2()?;
        let out = match gradient {
            CpuStorage::F32(_) => CpuStorage::F32(Self::kernel(
                numbers(gradient, lg)?,
                numbers(weight, lw)?,
                outputs,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(Self::kernel(
                numbers(gradient, lg)?,
                numbers(weight, lw)?,
                outputs,
            )),
            other => bail!("dense has no kernel for {:?}", other.dtype()),
        };
        Ok((out, (rows, inputs).into()))
    }
}

/// gradientᵀ · x for few rows of both: (outputs, inputs).
pub(super) struct ToWeight;

impl ToWeight {
    fn kernel<T: Real>(gradient: &[T], x: &[T], outputs: usize) -> Vec<T> {
        let rows = gradient.len() / outputs.max(1);
        let inputs = x.len() / rows.max(1);
        let shares: Vec<_> = (0..outputs).step_by(SHARE).collect();
        let shares = shares.into_par_iter().map(|from| {
            let a = Matrix {
                values: &gradient[from..],
                row: 1,
                column: outputs,
            };
            let b = Matrix {
                values: x,
                row: inputs,
                column: 1,
            };
            product_new((SHARE.min(outputs - from), inputs, rows), a, b)
        });
        let mut shares = shares.collect::<Vec<_>>();
        match shares.len() {
            1 => shares.swap_remove(0),
            _ => shares.concat(),
        }
    }
}

impl CustomOp2 for ToWeight {
    fn name(&self) -> &'static str {
        "dense_to_weight"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        lg: &Layout,
        x: &CpuStorage,
        lx: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, outputs) = lg.shape().dims2()?;
        let (_, inputs) = lx.shape().dims2()?;
        let out = match gradient {
            CpuStorage::F32(_) => CpuStorage::F32(Self::kernel(
                numbers(gradient, lg)?,
                numbers(x, lx)?,
                outputs,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(Self::kernel(
                numbers(gradient, lg)?,
                numbers(x, lx)?,
                outputs,
            )),
            other => bail!("dense has no kernel for {:?}", other.dtype()),
        };
        Ok((out, (outputs, inputs).into()))
    }
}
