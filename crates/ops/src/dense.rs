//! Dense layers in one pass over memory, with gradients. [`few`] has the products for few rows.

mod few;

use crate::activation::{Slope, check_activation};
use crate::gradients::hand_over;
use crate::kernels::Real;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{
    Gpu,
    layers::{dense_backward, slope_of},
};
use crate::kernels::elementwise::PARALLEL;
use crate::kernels::product::product_transposed;
use crate::slices::numbers;
use crate::support::have_kernel;
use crate::{Activation, Error, Result, leaky_relu};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Tensor, bail};
use few::{FEW, ToInput, ToWeight};
use rayon::prelude::*;

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
