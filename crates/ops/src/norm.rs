//! Batch norm, layer norm and softmax with gradients.
//!
//! The fast paths of candle-nn's `layer_norm` and `softmax_last_dim` have no backward pass: the
//! gradient of a transformer's input is lost. candle-nn's batch norm in training mode creates a
//! dozen temporary tensors.

use crate::activation::check_activation;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Gpu, layers::slope_of};
use crate::kernels::norm::{ChannelNorm, statistics};
use crate::kernels::{Number, Real};
use crate::slices::{numbers, with_numbers};
use crate::{Activation, Error, Result, widened};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

/// Returns the number of elements in one channel of one image. The kernels process a tensor in
/// runs of this length.
fn plane(dims: &[usize]) -> usize {
    dims[2..].iter().product::<usize>().max(1)
}

impl CustomOp3 for ChannelNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
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
        let n = plane(lx.dims());
        let out = match x {
            CpuStorage::F32(_) => {
                CpuStorage::F32(self.kernel(numbers(x, lx)?, numbers(w, lw)?, numbers(b, lb)?, n))
            }
            CpuStorage::F64(_) => {
                CpuStorage::F64(self.kernel(numbers(x, lx)?, numbers(w, lw)?, numbers(b, lb)?, n))
            }
            other => bail!("batch_norm has no kernel for {:?}", other.dtype()),
        };
        Ok((out, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn run<T: Number>(
            norm: &ChannelNorm,
            [x, w, b, result, grad]: [&Tensor; 5],
        ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
            let grad = grad.contiguous()?;
            let n = plane(x.dims());
            // Gradients of frozen parameters are not computed.
            let affine = w.track_op() || b.track_op();
            let found = with_numbers::<T, _>(x, |xs| {
                with_numbers::<T, _>(w, |ws| {
                    with_numbers::<T, _>(result, |rs| {
                        with_numbers::<T, _>(&grad, |gs| {
                            Ok(norm.backward(xs, ws, rs, gs, (n, affine)))
                        })
                    })
                })
            })?;
            let (dx, others) = found;
            let dev = x.device();
            let dx = Tensor::from_vec(dx, x.shape(), dev)?;
            let Some([dw, db]) = others else {
                return Ok((Some(dx), None, None));
            };
            Ok((
                Some(dx),
                Some(Tensor::from_vec(dw, w.shape(), dev)?),
                Some(Tensor::from_vec(db, b.shape(), dev)?),
            ))
        }
        match x.dtype() {
            DType::F64 => run::<f64>(self, [x, w, b, result, grad]),
            _ => run::<f32>(self, [x, w, b, result, grad]),
        }
    }
}

fn check_channels(x: &Tensor, each: &[(&str, &Tensor)]) -> Result<()> {
    let fits =
        x.rank() >= 2 && x.elem_count() > 0 && each.iter().all(|(_, t)| t.dims() == [x.dims()[1]]);
    if fits {
        return Ok(());
    }
    let found: Vec<String> = each
        .iter()
        .map(|(name, t)| format!("{name} {:?}", t.dims()))
        .collect();
    Err(Error::shape(format!(
        "batch norm: expected x of shape (batch, channels, …) and the other tensors of shape (channels,), found x {:?}, {}",
        x.dims(),
        found.join(", ")
    )))
}

/// Reshapes one value per channel so that it broadcasts over x (batch, channels, …).
fn per_channel(t: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut dims = vec![1; x.rank()];
    dims[1] = t.elem_count();
    Ok(t.reshape(dims)?)
}

fn activated(y: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(y),
        Activation::Leaky(slope) => super::leaky_relu(&y, slope),
    }
}

/// Computes activation(x·scale + shift) with one scale and one shift per channel of x (batch,
/// channels, …), on devices without a CPU kernel.
fn channel_affine(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::gpu::is_available(x) {
        let (x, scale, shift) = (x.contiguous()?, scale.contiguous()?, shift.contiguous()?);
        return Ok(x.apply_op3(&scale, &shift, ChannelAffine(activation))?);
    }
    let y = x
        .broadcast_mul(&per_channel(scale, x)?)?
        .broadcast_add(&per_channel(shift, x)?)?;
    activated(y, activation)
}

/// [`channel_affine`] as one operation on a GPU.
#[cfg(feature = "cuda")]
struct ChannelAffine(Activation);

#[cfg(feature = "cuda")]
impl CustomOp3 for ChannelAffine {
    fn name(&self) -> &'static str {
        "channel_affine"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        bail!("this operation is implemented only for GPUs")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let gpu = Gpu::of_storage(x);
        let all = [
            gpu.address(x, lx)?,
            gpu.address(a, la)?,
            gpu.address(b, lb)?,
        ];
        let sizes = (lx.dims()[0], lx.dims()[1], plane(lx.dims()));
        let y = gpu.channel_affine(all, sizes, slope_of(self.0))?;
        Ok((gpu.storage(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(gpu) = Gpu::of(x) else {
            bail!("this operation is implemented only for GPUs")
        };
        let grad = grad.contiguous()?;
        let all = [
            gpu.of_tensor(x)?,
            gpu.of_tensor(a)?,
            gpu.of_tensor(y)?,
            gpu.of_tensor(&grad)?,
        ];
        let sizes = (x.dims()[0], x.dims()[1], plane(x.dims()));
        let [dx, da, db] = gpu.channel_affine_backward(all, sizes, slope_of(self.0))?;
        Ok((
            Some(gpu.tensor(dx, x.shape())),
            Some(gpu.tensor(da, a.shape())),
            Some(gpu.tensor(db, b.shape())),
        ))
    }
}

/// Applies batch norm in evaluation mode (arXiv 1502.03167), then the activation.
///
/// The result is activation((x − mean)/√(variance + eps)·weight + bias) for each channel of x
/// (batch, channels, …).
///
/// `mean`, `variance`, `weight` and `bias` have shape (channels,). Mean and variance are
/// constants: they receive no gradient.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match; [`Error::Invalid`] if the slope is negative or not
/// finite.
pub fn batch_norm(
    x: &Tensor,
    [mean, variance]: [&Tensor; 2],
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    check_activation(activation)?;
    check_channels(
        x,
        &[
            ("mean", mean),
            ("variance", variance),
            ("weight", weight),
            ("bias", bias),
        ],
    )?;
    if !super::has_kernel(x) {
        // Half precision has too few digits for the statistics.
        let [mean, variance] = [mean, variance].map(|t| widened(&t.detach()));
        let rstd = (variance? + eps)?.sqrt()?.recip()?;
        let scale = (widened(weight)? * rstd)?;
        let shift = (widened(bias)? - (mean? * &scale)?)?;
        let (scale, shift) = (scale.to_dtype(x.dtype())?, shift.to_dtype(x.dtype())?);
        return channel_affine(x, &scale, &shift, activation);
    }
    let list = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
    let op = ChannelNorm {
        mean: list(mean)?,
        rstd: list(variance)?
            .iter()
            .map(|v| (v + eps).sqrt().recip())
            .collect(),
        activation,
        of_batch: false,
    };
    Ok(x.contiguous()?
        .apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

/// The result of [`batch_norm_training`].
#[derive(Clone, Debug)]
pub struct BatchNormed {
    /// The normalised tensor, with the shape of x.
    pub y: Tensor,
    /// The mean of each channel, (channels,), detached from the graph.
    pub mean: Tensor,
    /// The biased variance of each channel, (channels,), detached from the graph.
    pub variance: Tensor,
}

/// Applies batch norm in training mode (arXiv 1502.03167): as [`batch_norm`], but with the mean
/// and variance of the batch itself; the gradient includes their dependence on x.
///
/// Mean and variance are returned as well, for a running mean.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match, or if a channel has a single element, which has no
/// variance; [`Error::Invalid`] if the slope is negative or not finite.
pub fn batch_norm_training(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> Result<BatchNormed> {
    check_activation(activation)?;
    check_channels(x, &[("weight", weight), ("bias", bias)])?;
    let channels = x.dims()[1];
    if x.elem_count() == channels {
        return Err(Error::shape(format!(
            "batch norm in training mode: expected more than one element per channel, found x of shape {:?}: use a larger batch",
            x.dims()
        )));
    }
    if !super::has_kernel(x) {
        let (own, x) = (x.dtype(), &widened(x)?);
        let flat = x.transpose(0, 1)?.flatten_from(1)?;
        let mean = flat.mean(1)?;
        let centred = x.broadcast_sub(&per_channel(&mean, x)?)?;
        let variance = centred.sqr()?.transpose(0, 1)?.flatten_from(1)?.mean(1)?;
        let rstd = (&variance + eps)?.sqrt()?.recip()?;
        let y = centred
            .broadcast_mul(&per_channel(&(widened(weight)? * rstd)?, x)?)?
            .broadcast_add(&per_channel(&widened(bias)?, x)?)?;
        return Ok(BatchNormed {
            y: activated(y.to_dtype(own)?, activation)?,
            mean: mean.detach().to_dtype(own)?,
            variance: variance.detach().to_dtype(own)?,
        });
    }
    let x = x.contiguous()?;
    let n = plane(x.dims());
    let found = match x.dtype() {
        DType::F64 => with_numbers::<f64, _>(&x, |x| Ok(statistics(x, channels, n)))?,
        _ => with_numbers::<f32, _>(&x, |x| Ok(statistics(x, channels, n)))?,
    };
    let (mean, variance): (Vec<f64>, Vec<f64>) = found.into_iter().unzip();
    let tensor = |v: &[f64]| Tensor::new(v, x.device())?.to_dtype(x.dtype());
    let (mean_tensor, variance_tensor) = (tensor(&mean)?, tensor(&variance)?);
    let op = ChannelNorm {
        rstd: variance.iter().map(|v| (v + eps).sqrt().recip()).collect(),
        mean,
        activation,
        of_batch: true,
    };
    let y = x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?;
    Ok(BatchNormed {
        y,
        mean: mean_tensor,
        variance: variance_tensor,
    })
}

/// Number of elements per task of a softmax.
const TASK: usize = 1 << 12;

/// Softmax over rows of `width` elements.
struct Softmax {
    width: usize,
}

impl Softmax {
    fn kernel<T: Real>(&self, x: &[T]) -> Vec<T> {
        let mut out = x.to_vec();
        // Short rows share a task.
        let rows = (TASK / self.width).max(1);
        out.par_chunks_mut(self.width * rows).for_each(|rows| {
            for row in rows.chunks_exact_mut(self.width) {
                let largest = row.iter().fold(row[0], |l, &v| if v > l { v } else { l });
                let mut sum = T::zero();
                for v in row.iter_mut() {
                    *v = Real::exp(*v - largest);
                    sum += *v;
                }
                row.iter_mut().for_each(|v| *v /= sum);
            }
        });
        out
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(x, l)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(x, l)?)),
            other => bail!("softmax has no kernel for {:?}", other.dtype()),
        };
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let weighted = (grad * y)?;
        let mean = weighted.sum_keepdim(D::Minus1)?;
        Ok(Some((weighted - y.broadcast_mul(&mean)?)?))
    }
}

/// Applies softmax over the last dimension, with its gradient.
///
/// # Errors
/// [`Error::Tensor`] for a tensor without dimensions.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if super::has_kernel(x) && width > 0 {
        return Ok(x.contiguous()?.apply_op1(Softmax { width })?);
    }
    Ok(candle_nn::ops::softmax(x, D::Minus1)?)
}

/// Applies layer norm (arXiv 1607.06450) over the last dimension of x, with its gradient:
/// (x − mean)/√(variance + eps)·weight + bias. `weight` and `bias` have the length of that
/// dimension.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 || weight.dims() != [width] || bias.dims() != [width] {
        return Err(Error::shape(format!(
            "layer norm: expected a weight and a bias of shape (features,) for x of shape (…, features), found {:?}, {:?} and x {:?}",
            weight.dims(),
            bias.dims(),
            x.dims()
        )));
    }
    let (own, x) = (x.dtype(), &widened(x)?);
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let normed = normed.to_dtype(own)?;
    Ok(normed.broadcast_mul(weight)?.broadcast_add(bias)?)
}
