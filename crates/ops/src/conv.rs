//! Convolution and transposed convolution as matrix products over patches, forward and backward.
//!
//! candle's convolution has correct values, but it computes its gradients as a direct transposed
//! convolution and as a convolution with an image-sized kernel, both of which are slow on a CPU.
//! Here both directions are matrix products with the same patch matrix ("im2col" and its
//! adjoint), with bias and leaky ReLU in the same pass.

use crate::activation::check_activation;
use crate::kernels::Number;
use crate::kernels::convolution::{Finish, Geometry, bias_gradient, unfinished};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Address, Buffer, Gpu, layers::slope_of};
use crate::kernels::patches::Patches;
use crate::slices::{numbers, slice};
use crate::support::have_kernel;
use crate::{Activation, Error, Result};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};

/// Stride, padding and activation of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ConvConfig {
    /// Step between patches in pixels, in both directions; at least 1.
    pub stride: usize,
    /// Zero padding in pixels: (above and below, left and right). For a transposed convolution it
    /// is what is cut off the result, as in PyTorch.
    pub padding: (usize, usize),
    /// The activation after the convolution.
    pub activation: Activation,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: (0, 0),
            activation: Activation::None,
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Convolution {
    pub(crate) config: ConvConfig,
    pub(crate) transposed: bool,
}

impl Convolution {
    /// Converts the shapes of image (b, c, h, w), weight and bias to a geometry; the error
    /// message states what does not match.
    fn geometry(&self, x: &[usize], w: &[usize], b: &[usize]) -> Result<Geometry> {
        let name = if self.transposed {
            "transposed convolution"
        } else {
            "convolution"
        };
        let (&[batch, c_in, h, wd], &[w0, w1, kh, kw], &[c_bias]) = (x, w, b) else {
            return Err(Error::shape(format!(
                "{name}: expected images of shape (batch, channels, height, width), a weight with 4 dimensions and a bias with 1, found shapes {x:?}, {w:?} and {b:?}"
            )));
        };
        if batch == 0 {
            return Err(Error::shape(format!(
                "{name}: expected at least one image, found shape {x:?}"
            )));
        }
        check_activation(self.config.activation)?;
        let ConvConfig {
            stride, padding, ..
        } = self.config;
        let (expected_in, c_out) = if self.transposed { (w0, w1) } else { (w1, w0) };
        if stride == 0 {
            return Err(Error::invalid(format!(
                "{name}: expected a stride of at least 1, found 0"
            )));
        }
        if c_in != expected_in || c_bias != c_out || kh == 0 || kw == 0 {
            return Err(Error::shape(format!(
                "{name}: the weight {w:?} has {expected_in} input channels and {c_out} output channels, found images of shape {x:?} and a bias with {c_bias} elements"
            )));
        }
        let none = || {
            Error::shape(format!(
                "{name}: kernel {kh}×{kw}, padding {padding:?} and stride {stride} give an empty output for images of shape {x:?}"
            ))
        };
        if self.transposed {
            let size = |n: usize, k: usize, padding: usize| {
                ((n.max(1) - 1) * stride + k)
                    .checked_sub(2 * padding)
                    .filter(|s| *s > 0)
            };
            let (oh, ow) = size(h, kh, padding.0)
                .zip(size(wd, kw, padding.1))
                .filter(|_| h > 0 && wd > 0)
                .ok_or_else(none)?;
            let patches = Patches {
                channels: c_out,
                height: oh,
                width: ow,
                kernel: (kh, kw),
                stride,
                padding,
                out_height: h,
                out_width: wd,
            };
            Ok(Geometry {
                batch,
                channels: c_in,
                patches,
            })
        } else {
            let size =
                |n: usize, k: usize, p: usize| (n + 2 * p).checked_sub(k).map(|s| s / stride + 1);
            let (oh, ow) = size(h, kh, padding.0)
                .zip(size(wd, kw, padding.1))
                .ok_or_else(none)?;
            let patches = Patches {
                channels: c_in,
                height: h,
                width: wd,
                kernel: (kh, kw),
                stride,
                padding,
                out_height: oh,
                out_width: ow,
            };
            Ok(Geometry {
                batch,
                channels: c_out,
                patches,
            })
        }
    }

    fn result_shape(&self, g: &Geometry) -> (usize, usize, usize, usize) {
        if self.transposed {
            (
                g.batch,
                g.patches.channels,
                g.patches.height,
                g.patches.width,
            )
        } else {
            (
                g.batch,
                g.channels,
                g.patches.out_height,
                g.patches.out_width,
            )
        }
    }

    fn forward<T: Number>(&self, g: &Geometry, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let finish = Some(Finish {
            bias: b,
            activation: self.config.activation,
        });
        if self.transposed {
            g.spread(x, w, finish)
        } else {
            g.project(x, w, finish)
        }
    }

    /// Computes the gradients of image, weight and bias that `wanted` selects.
    fn backward<T: Number>(
        &self,
        g: &Geometry,
        x: &[T],
        w: &[T],
        result: &[T],
        gradient: &[T],
        wanted: [bool; 3],
    ) -> [Option<Vec<T>>; 3] {
        let (_, c, h, wd) = self.result_shape(g);
        let before = unfinished(result, gradient, self.config.activation);
        let before = before.as_deref().unwrap_or(gradient);
        let dx = wanted[0].then(|| {
            if self.transposed {
                g.project(before, w, None)
            } else {
                g.spread(before, w, None)
            }
        });
        let dw = wanted[1].then(|| {
            if self.transposed {
                g.correlate(before, x)
            } else {
                g.correlate(x, before)
            }
        });
        [dx, dw, wanted[2].then(|| bias_gradient(before, c, h * wd))]
    }

    fn bwd_of<T: Number>(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let g = self.geometry(x.dims(), w.dims(), b.dims())?;
        // No gradients are computed for frozen weights, constant biases and the input data of a
        // network.
        let wanted = [x, w, b].map(|t| t.track_op());
        let (x, w, res, grad) = (
            x.contiguous()?,
            w.contiguous()?,
            res.contiguous()?,
            grad.contiguous()?,
        );
        let storages = [&x, &w, &res, &grad].map(|t| t.storage_and_layout());
        let mut slices = Vec::with_capacity(4);
        for (storage, layout) in &storages {
            slices.push(slice::<T>(storage, layout)?);
        }
        let [dx, dw, db] = self.backward(&g, slices[0], slices[1], slices[2], slices[3], wanted);
        let of = |values: Option<Vec<T>>, t: &Tensor| {
            values
                .map(|v| Tensor::from_vec(v, t.shape(), t.device()))
                .transpose()
        };
        Ok([of(dx, &x)?, of(dw, &w)?, of(db, b)?])
    }
}

#[cfg(feature = "cuda")]
impl Convolution {
    fn bwd_on_gpu(
        &self,
        gpu: &Gpu,
        [x, w, b, res, grad]: [&Tensor; 5],
    ) -> Result<[Option<Tensor>; 3]> {
        let g = self.geometry(x.dims(), w.dims(), b.dims())?;
        let [to_x, to_w, to_b] = [x, w, b].map(|t| t.track_op());
        let (x, w) = (x.contiguous()?, w.contiguous()?);
        let grad = grad.contiguous()?;
        let d = match self.config.activation {
            Activation::None => grad,
            Activation::Leaky(slope) => {
                let res = res.contiguous()?;
                let n = res.elem_count();
                let d = gpu.slope(gpu.of_tensor(&res)?, gpu.of_tensor(&grad)?, n, slope)?;
                gpu.tensor(d, res.shape())
            }
        };
        let (at, wt) = (gpu.of_tensor(&d)?, gpu.of_tensor(&w)?);
        let none = (Address::NULL, 1.0);
        let dx = to_x.then(|| match self.transposed {
            true => gpu.project(&g, at, wt, none),
            false => gpu.spread(&g, at, wt, none),
        });
        let dw = to_w.then(|| {
            let xt = gpu.of_tensor(&x)?;
            match self.transposed {
                true => gpu.correlate(&g, at, xt),
                false => gpu.correlate(&g, xt, at),
            }
        });
        let (batch, c, h, wd) = self.result_shape(&g);
        let db = to_b.then(|| gpu.channel_sum(at, (batch, c, h * wd)));
        let tensor = |buffer: Option<candle_core::Result<Buffer>>, like: &Tensor| -> Result<_> {
            let buffer = buffer.transpose()?;
            Ok(buffer.map(|buffer| gpu.tensor(buffer, like.shape())))
        };
        Ok([tensor(dx, &x)?, tensor(dw, &w)?, tensor(db, b)?])
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        if self.transposed {
            "conv-transpose2d"
        } else {
            "conv2d"
        }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Number>(
            c: &Convolution,
            x: (&CpuStorage, &Layout),
            w: (&CpuStorage, &Layout),
            b: (&CpuStorage, &Layout),
        ) -> candle_core::Result<(CpuStorage, Shape)> {
            let g = c
                .geometry(x.1.dims(), w.1.dims(), b.1.dims())
                .map_err(candle_core::Error::wrap)?;
            let out = c.forward::<T>(
                &g,
                numbers(x.0, x.1)?,
                numbers(w.0, w.1)?,
                numbers(b.0, b.1)?,
            );
            Ok((T::storage(out), c.result_shape(&g).into()))
        }
        match x {
            CpuStorage::F32(_) => run::<f32>(self, (x, xl), (w, wl), (b, bl)),
            CpuStorage::F64(_) => run::<f64>(self, (x, xl), (w, wl), (b, bl)),
            _ => candle_core::bail!("{} on the CPU: expected f32 or f64", self.name()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let g = self
            .geometry(xl.dims(), wl.dims(), bl.dims())
            .map_err(candle_core::Error::wrap)?;
        let gpu = Gpu::of_storage(x);
        let (x, w) = (gpu.address(x, xl)?, gpu.address(w, wl)?);
        let finish = (gpu.address(b, bl)?, slope_of(self.config.activation));
        let y = match self.transposed {
            true => gpu.spread(&g, x, w, finish)?,
            false => gpu.project(&g, x, w, finish)?,
        };
        Ok((gpu.storage(y), self.result_shape(&g).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = Gpu::of(x) {
            let [dx, dw, db] = self
                .bwd_on_gpu(&gpu, [x, w, b, res, grad])
                .map_err(candle_core::Error::wrap)?;
            return Ok((dx, dw, db));
        }
        let [dx, dw, db] = match x.dtype() {
            DType::F64 => self.bwd_of::<f64>(x, w, b, res, grad),
            _ => self.bwd_of::<f32>(x, w, b, res, grad),
        }
        .map_err(candle_core::Error::wrap)?;
        Ok((dx, dw, db))
    }
}

pub(crate) fn apply(op: Convolution, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    op.geometry(x.dims(), weight.dims(), bias.dims())?;
    if have_kernel(&[x, weight, bias]) {
        return Ok(x
            .contiguous()?
            .apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?);
    }
    let ConvConfig {
        stride,
        padding,
        activation,
    } = op.config;
    let y = if op.transposed {
        // candle supports one padding for both directions. The difference is cropped afterwards.
        let both = padding.0.min(padding.1);
        let rest = (padding.0 - both, padding.1 - both);
        let y = x.conv_transpose2d(weight, both, 0, stride, 1)?;
        let (height, width) = (y.dim(2)? - 2 * rest.0, y.dim(3)? - 2 * rest.1);
        y.narrow(2, rest.0, height)?.narrow(3, rest.1, width)?
    } else {
        // Without the rows and columns that no patch reaches, and without candle's padding: its
        // gradient takes the number of them from the height alone.
        let (rows, columns) = (weight.dim(2)?, weight.dim(3)?);
        let (height, width) = (x.dim(2)? + 2 * padding.0, x.dim(3)? + 2 * padding.1);
        let reached = |size: usize, kernel: usize| (size - kernel) / stride * stride + kernel;
        let x = x.pad_with_zeros(2, padding.0, padding.0)?;
        let x = x.pad_with_zeros(3, padding.1, padding.1)?;
        let x = x.narrow(2, 0, reached(height, rows))?;
        let x = x.narrow(3, 0, reached(width, columns))?;
        x.contiguous()?.conv2d(weight, 0, stride, 1, 1)?
    };
    let y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    Ok(match activation {
        Activation::None => y,
        Activation::Leaky(slope) => crate::leaky_relu(&y, slope)?,
    })
}

/// Applies a convolution to images (batch, in, h, w) with a weight (out, in, kh, kw) and a bias
/// (out,), as PyTorch's `conv2d` (cross-correlation), then the activation of `config`. f32 or
/// f64.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match; [`Error::Invalid`] if the stride is 0, or if the
/// slope is negative or not finite.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use invariances_ops::{self as ops, ConvConfig};
/// let x = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let w = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let b = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
/// let y = ops::conv2d(&x, &w, &b, ConvConfig { padding: (1, 1), ..Default::default() })?;
/// assert_eq!(y.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?[1], [6., 9., 6.]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, config: ConvConfig) -> Result<Tensor> {
    apply(
        Convolution {
            config,
            transposed: false,
        },
        x,
        weight,
        bias,
    )
}

/// Applies a transposed convolution to images (batch, in, h, w) with a weight (in, out, kh, kw)
/// and a bias (out,), as PyTorch's `conv_transpose2d`, then the activation of `config`. The
/// result is (h−1)·stride − 2·padding + kh pixels high. f32 or f64.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not match; [`Error::Invalid`] if the stride is 0, or if the
/// slope is negative or not finite.
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    config: ConvConfig,
) -> Result<Tensor> {
    apply(
        Convolution {
            config,
            transposed: true,
        },
        x,
        weight,
        bias,
    )
}
