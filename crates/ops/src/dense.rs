//! Dense layers, leaky ReLU and sums with activation, each in one pass over memory, with
//! gradients; and helpers that the other kernels share.

use super::Activation;
use super::gpu;
use super::gradients::hand_over;
use crate::kernels::Number;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{
    Gpu,
    layers::{dense_backward, slope_of},
};
use crate::kernels::elementwise::{PARALLEL, map, map2};
use crate::kernels::product::{Matrix, product, product_new, product_transposed};
use crate::{Error, Result};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// The element types that the kernels support.
pub(super) trait Real: Number {
    fn tanh(self) -> Self;
    fn exp(self) -> Self;
}

impl Real for f32 {
    fn tanh(self) -> Self {
        f32::tanh(self)
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
}

impl Real for f64 {
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
}

/// Returns whether the CPU kernels of this crate support this tensor (f32 or f64 on the CPU). For
/// other tensors candle's operations are composed.
pub fn has_kernel(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64) && crate::kernels_are_used()
}

/// Returns whether all tensors are supported by the CPU kernels, or all by the CUDA kernels.
pub(crate) fn have_kernel(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| has_kernel(t)) || tensors.iter().all(|t| gpu::is_available(t))
}

/// Returns the elements of a contiguous tensor. The callers make their arguments contiguous
/// first.
pub(super) fn numbers<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!(
            "expected a contiguous tensor, found layout {layout:?}: call `contiguous()` first"
        ),
    }
}

/// Repeats each row of x (rows, width) `times` times. The copies of a row are adjacent; the
/// result has shape (rows·times, width).
pub fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return Ok(x.clone());
    }
    let (rows, width) = x.dims2()?;
    let each = x.unsqueeze(1)?.broadcast_as((rows, times, width))?;
    Ok(each.contiguous()?.reshape((rows * times, width))?)
}

struct LeakyRelu(f64);

impl LeakyRelu {
    fn kernel<T: Real>(&self, x: &[T]) -> Vec<T> {
        let slope = T::from_f64(self.0);
        map(x, move |x| x * if x > T::zero() { T::one() } else { slope })
    }
}

impl CustomOp1 for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(x, l)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(x, l)?)),
            other => bail!("leaky_relu has no kernel for {:?}", other.dtype()),
        };
        Ok((y, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(x);
        let y = gpu.leaky(gpu.address(x, l)?, l.shape().elem_count(), self.0)?;
        Ok((gpu.storage(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The slope depends only on the sign of the argument.
        let op = Slope(Activation::Leaky(self.0));
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &op)?))
    }
}

/// grad · activation′, where the derivative is computed from the activation's *result*.
struct Slope(Activation);

impl Slope {
    fn kernel<T: Real>(&self, y: &[T], grad: &[T]) -> Vec<T> {
        match self.0 {
            Activation::None => grad.to_vec(),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                // The factor is selected first, then multiplied, and the closure owns the slope:
                // this is the form that the compiler vectorises.
                map2(y, grad, move |y, g| {
                    g * if y > T::zero() { T::one() } else { slope }
                })
            }
        }
    }
}

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation_gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        l: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match y {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(y, l)?, numbers(grad, lg)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(y, l)?, numbers(grad, lg)?)),
            other => bail!("activation_gradient has no kernel for {:?}", other.dtype()),
        };
        Ok((out, l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        l: &Layout,
        grad: &CudaStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(y);
        let (y, grad) = (gpu.address(y, l)?, gpu.address(grad, lg)?);
        let slope = slope_of(self.0);
        let out = gpu.slope(y, grad, l.shape().elem_count(), slope)?;
        Ok((gpu.storage(out), l.shape().clone()))
    }
}

/// The sum over the first dimension of (rows, width), added row by row.
struct ColumnSum;

impl ColumnSum {
    fn kernel<T: Real>(x: &[T], width: usize) -> Vec<T> {
        let mut sum = vec![T::zero(); width];
        for row in x.chunks_exact(width.max(1)) {
            sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
        }
        sum
    }
}

impl CustomOp1 for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, width) = l.shape().dims2()?;
        let sum = match x {
            CpuStorage::F32(_) => CpuStorage::F32(Self::kernel(numbers(x, l)?, width)),
            CpuStorage::F64(_) => CpuStorage::F64(Self::kernel(numbers(x, l)?, width)),
            other => bail!("column_sum has no kernel for {:?}", other.dtype()),
        };
        Ok((sum, width.into()))
    }
}

struct Dense(Activation);

impl Dense {
    fn kernel<T: Real>(&self, x: &[T], weight: &[T], bias: &[T], inputs: usize) -> Vec<T> {
        let outputs = bias.len();
        let batch = x.len() / inputs.max(1);
        if batch <= FEW {
            return self.few(x, weight, bias, inputs);
        }
        let mut y = product_transposed((batch, outputs, inputs), x, weight);
        let finish = |row: &mut [T]| match self.0 {
            Activation::None => row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                row.iter_mut().zip(bias).for_each(|(y, &b)| {
                    let z = *y + b;
                    *y = z * if z > T::zero() { T::one() } else { slope };
                });
            }
        };
        if y.len() < PARALLEL {
            y.chunks_mut(outputs.max(1)).for_each(finish);
        } else {
            y.par_chunks_mut(outputs.max(1)).for_each(finish);
        }
        y
    }
}

/// Up to this number of rows, transposing the input first makes the product with a weight faster.
const FEW: usize = 128;

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
    fn few<T: Real>(&self, x: &[T], weight: &[T], bias: &[T], inputs: usize) -> Vec<T> {
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
struct ToInput;

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
struct ToWeight;

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

impl CustomOp3 for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, inputs) = lx.shape().dims2()?;
        let outputs = lb.shape().elem_count();
        let y = match x {
            CpuStorage::F32(_) => {
                let (x, w, b) = (numbers(x, lx)?, numbers(w, lw)?, numbers(b, lb)?);
                CpuStorage::F32(self.kernel(x, w, b, inputs))
            }
            CpuStorage::F64(_) => {
                let (x, w, b) = (numbers(x, lx)?, numbers(w, lw)?, numbers(b, lb)?);
                CpuStorage::F64(self.kernel(x, w, b, inputs))
            }
            other => bail!("dense has no kernel for {:?}", other.dtype()),
        };
        Ok((y, (batch, outputs).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(x);
        let (batch, inputs) = lx.shape().dims2()?;
        let outputs = lb.shape().elem_count();
        let all = [
            gpu.address(x, lx)?,
            gpu.address(w, lw)?,
            gpu.address(b, lb)?,
        ];
        let y = gpu.dense(all, (batch, inputs, outputs), slope_of(self.0))?;
        Ok((gpu.storage(y), (batch, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = Gpu::of(x) {
            let slope = (self.0 != Activation::None).then(|| slope_of(self.0));
            let wanted = [x, w, b].map(|t| t.track_op());
            let [to_x, to_w, to_b] = dense_backward(&gpu, [x, w, b], (y, &grad), slope, wanted)?;
            let to_w = to_w.map(|g| hand_over(w, g)).transpose()?.flatten();
            let to_b = to_b.map(|g| hand_over(b, g)).transpose()?.flatten();
            return Ok((to_x, to_w, to_b));
        }
        let grad = match self.0 {
            Activation::None => grad,
            other => y.apply_op2_no_bwd(&grad, &Slope(other))?,
        };
        let few = x.dim(0)? <= FEW;
        let flat = w.flatten_from(1)?.detach();
        // The input data of a network need no gradient.
        let to_x = match x.track_op() {
            false => None,
            true if few => Some(grad.apply_op2_no_bwd(&flat, &ToInput)?),
            true => Some(grad.matmul(&flat)?),
        };
        // Frozen weights need no gradient either.
        let to_w = match w.track_op() {
            false => None,
            true => {
                let to_w = if few {
                    grad.apply_op2_no_bwd(x, &ToWeight)?
                } else {
                    grad.t()?.matmul(x)?
                };
                hand_over(w, to_w.reshape(w.shape())?)?
            }
        };
        let to_b = match b.track_op() {
            false => None,
            true => hand_over(b, grad.apply_op1_no_bwd(&ColumnSum)?)?,
        };
        Ok((to_x, to_w, to_b))
    }
}

/// The sum of two tensors, then the activation.
struct Sum(Activation);

impl Sum {
    fn kernel<T: Real>(&self, a: &[T], b: &[T]) -> Vec<T> {
        match self.0 {
            Activation::None => map2(a, b, |a, b| a + b),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                map2(a, b, move |a, b| {
                    let x = a + b;
                    x * if x > T::zero() { T::one() } else { slope }
                })
            }
        }
    }
}

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = match a {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(a, la)?, numbers(b, lb)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(a, la)?, numbers(b, lb)?)),
            other => bail!("add has no kernel for {:?}", other.dtype()),
        };
        Ok((y, la.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(a);
        let (a, b) = (gpu.address(a, la)?, gpu.address(b, lb)?);
        let y = gpu.add_leaky(a, b, la.shape().elem_count(), slope_of(self.0))?;
        Ok((gpu.storage(y), la.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grad = match self.0 {
            Activation::None => grad,
            other => y.apply_op2_no_bwd(&grad, &Slope(other))?,
        };
        Ok((Some(grad.clone()), Some(grad)))
    }
}

/// Computes activation(a + b) for two tensors of the same shape, as at the end of a residual
/// block. One pass over memory forward and one backward.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if the slope is negative or not
/// finite.
pub fn add(a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::shape(format!(
            "expected two tensors of the same shape, found {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    check_activation(activation)?;
    if have_kernel(&[a, b]) && a.dtype() == b.dtype() {
        return Ok(a
            .contiguous()?
            .apply_op2(&b.contiguous()?, Sum(activation))?);
    }
    let sum = (a + b)?;
    match activation {
        Activation::None => Ok(sum),
        Activation::Leaky(slope) => leaky_relu(&sum, slope),
    }
}

/// Applies leaky ReLU to a tensor of any shape: x where x > 0, otherwise slope·x. One pass over
/// memory forward and one backward.
///
/// # Errors
/// [`Error::Invalid`] if the slope is negative or not finite. With a negative slope the sign of x
/// could not be recovered from the result.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    check_slope(slope)?;
    if have_kernel(&[x]) {
        return Ok(x.contiguous()?.apply_op1(LeakyRelu(slope))?);
    }
    Ok((x.relu()? - (x.neg()?.relu()? * slope)?)?)
}

/// Returns an error for an activation whose slope is negative or not finite.
pub(crate) fn check_activation(activation: Activation) -> Result<()> {
    match activation {
        Activation::None => Ok(()),
        Activation::Leaky(slope) => check_slope(slope),
    }
}

/// Returns an error for a slope of leaky ReLU that is negative or not finite: gradients are
/// computed from the sign of the result.
fn check_slope(slope: f64) -> Result<()> {
    if slope >= 0.0 && slope.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "leaky ReLU: expected a finite slope of at least 0, found {slope}"
    )))
}

/// Applies a dense layer with its activation: activation(x·weightᵀ + bias).
///
/// `x` has shape (batch, inputs), `weight` (outputs, inputs) as in PyTorch, and `bias`
/// (outputs,); the result has shape (batch, outputs). `weight` may have more dimensions, such as
/// (outputs, channels, height, width); all dimensions after the first are then inputs.
///
/// On the CPU, bias and activation share one pass over the product, and their gradient takes one
/// more. On other devices candle's operations are composed.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use invariances_ops::{Activation, dense};
/// let x = Tensor::new(&[[1f32, -2.0]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[1f32, 1.0], [2.0, 0.0]], &Device::Cpu)?;
/// let bias = Tensor::new(&[0f32, 0.5], &Device::Cpu)?;
/// let y = dense(&x, &weight, &bias, Activation::Leaky(0.1))?;
/// assert_eq!(y.to_vec2::<f32>()?, [[-0.1, 2.5]]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match; [`Error::Invalid`] if the slope is negative or not
/// finite.
pub fn dense(x: &Tensor, weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    let fits = match (x.dims(), weight.dims(), bias.dims()) {
        ([_, inputs], [outputs, columns @ ..], [biases]) => {
            !columns.is_empty() && *inputs == columns.iter().product::<usize>() && outputs == biases
        }
        _ => false,
    };
    if !fits {
        return Err(Error::shape(format!(
            "dense layer: expected x of shape (batch, inputs), weight (outputs, inputs) and bias (outputs,), found {:?}, {:?} and {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        )));
    }
    check_activation(activation)?;
    if have_kernel(&[x]) {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        return Ok(x.apply_op3(&weight, &bias.contiguous()?, Dense(activation))?);
    }
    let y = x
        .matmul(&weight.flatten_from(1)?.t()?)?
        .broadcast_add(bias)?;
    match activation {
        Activation::None => Ok(y),
        Activation::Leaky(slope) => leaky_relu(&y, slope),
    }
}
