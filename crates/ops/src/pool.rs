//! Max and average pooling with correct gradients for any kernel, stride and padding.
//!
//! candle's pooling has gradients only if the kernel equals the stride, and its max-pooling
//! gradient is divided by the window's size.

use crate::kernels::Number;
use crate::slices::{numbers, slice};
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

/// The settings of a pooling window, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PoolConfig {
    /// Side of the window in pixels.
    pub kernel: usize,
    /// Step between windows in pixels.
    pub stride: usize,
    /// Padding pixels on each side of the image, at most half the kernel. They are never the
    /// maximum, and count as zeros in a mean unless `count_padding` is false.
    pub padding: usize,
    /// Whether the last window may extend past the edge (PyTorch's `ceil_mode`, used by
    /// SqueezeNet).
    pub ceil: bool,
    /// Whether a mean counts the padding (PyTorch's default) or only the pixels of the image.
    pub count_padding: bool,
}

impl PoolConfig {
    /// Creates a window without padding.
    pub fn new(kernel: usize, stride: usize) -> Self {
        Self {
            kernel,
            stride,
            padding: 0,
            ceil: false,
            count_padding: true,
        }
    }

    /// Returns the length of a side of `n` pixels after pooling, or `None` if the window is
    /// larger than the padded side, or if kernel or stride is 0.
    pub fn size_of(&self, n: usize) -> Option<usize> {
        (self.kernel > 0 && self.stride > 0)
            .then(|| self.size(n))
            .flatten()
    }

    fn size(&self, n: usize) -> Option<usize> {
        let room = (n + 2 * self.padding).checked_sub(self.kernel)?;
        let mut size = if self.ceil {
            room.div_ceil(self.stride)
        } else {
            room / self.stride
        } + 1;
        // A window that would start after the image and its left padding is dropped, as in
        // PyTorch.
        if self.ceil && (size - 1) * self.stride >= n + self.padding {
            size -= 1;
        }
        Some(size)
    }

    pub(crate) fn window(&self, o: usize, n: usize) -> (usize, usize) {
        let start = o * self.stride;
        (
            start.saturating_sub(self.padding),
            (start + self.kernel).saturating_sub(self.padding).min(n),
        )
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Max,
    Mean,
}

#[derive(Clone, Copy)]
pub(crate) struct Pool {
    pub(crate) kind: Kind,
    pub(crate) config: PoolConfig,
}

impl Pool {
    fn shape(&self, dims: &[usize]) -> Result<[usize; 6]> {
        let c = &self.config;
        let message =
            |what: &str| format!("pooling: expected {what}, found shape {dims:?} and {c:?}");
        let &[b, ch, h, w] = dims else {
            return Err(Error::shape(message(
                "images of shape (batch, channels, height, width)",
            )));
        };
        if c.kernel == 0 || c.stride == 0 || 2 * c.padding > c.kernel {
            return Err(Error::invalid(message(
                "a kernel and a stride of at least 1 and a padding of at most half the kernel",
            )));
        }
        match (c.size(h), c.size(w)) {
            (Some(oh), Some(ow)) => Ok([b, ch, h, w, oh, ow]),
            _ => Err(Error::shape(message(
                "images at least as large as the kernel",
            ))),
        }
    }

    /// Returns the divisor of a mean: the area of the window, including padding if it counts. The
    /// part of a window that extends past the padding does not count (as in PyTorch).
    pub(crate) fn divisor(&self, (oy, ox): (usize, usize), (h, w): (usize, usize)) -> f64 {
        let c = &self.config;
        let side = |o: usize, n: usize| {
            if c.count_padding {
                (o * c.stride + c.kernel).min(n + 2 * c.padding) - o * c.stride
            } else {
                let (from, to) = c.window(o, n);
                to - from
            }
        };
        (side(oy, h) * side(ox, w)) as f64
    }

    fn backward<T: Number>(
        &self,
        (x, y): (&[T], &[T]),
        grad: &[T],
        [_, _, h, w, oh, ow]: [usize; 6],
    ) -> Vec<T> {
        let mut out = vec![T::default(); x.len()];
        out.par_chunks_mut(h * w)
            .zip(x.par_chunks(h * w))
            .zip(y.par_chunks(oh * ow).zip(grad.par_chunks(oh * ow)))
            .for_each(|((out, x), (y, grad))| {
                for oy in 0..oh {
                    let (y0, y1) = self.config.window(oy, h);
                    for ox in 0..ow {
                        let (x0, x1) = self.config.window(ox, w);
                        let g = grad[oy * ow + ox];
                        match self.kind {
                            Kind::Max => {
                                out[first_maximum((x, w), y[oy * ow + ox], (y0, y1), (x0, x1))] +=
                                    g;
                            }
                            Kind::Mean => {
                                let share = g * T::from_f64(self.divisor((oy, ox), (h, w)).recip());
                                for y in y0..y1 {
                                    out[y * w + x0..y * w + x1]
                                        .iter_mut()
                                        .for_each(|v| *v += share);
                                }
                            }
                        }
                    }
                }
            });
        out
    }
}

/// Returns the larger of two numbers. A NaN is propagated, as in PyTorch.
#[inline(always)]
pub(crate) fn larger<T: PartialOrd + Copy>(a: T, b: T) -> T {
    // Only NaN differs from itself.
    #[allow(clippy::eq_op)]
    let is_nan = b != b;
    if b > a || is_nan { b } else { a }
}

/// Returns the index of the first element in a window that equals the known maximum (the first of
/// equal elements, as in PyTorch). If the maximum is NaN, returns the last NaN of the window.
fn first_maximum<T: PartialOrd + Copy>(
    (x, w): (&[T], usize),
    maximum: T,
    (y0, y1): (usize, usize),
    (x0, x1): (usize, usize),
) -> usize {
    for y in y0..y1 {
        let line = &x[y * w + x0..y * w + x1];
        if let Some(i) = line.iter().position(|v| *v == maximum) {
            return y * w + x0 + i;
        }
    }
    (y0..y1)
        .flat_map(|y| y * w + x0..y * w + x1)
        .filter(|&i| x[i].partial_cmp(&x[i]).is_none())
        .last()
        .unwrap_or(y0 * w + x0)
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Max => "max-pool2d",
            Kind::Mean => "avg-pool2d",
        }
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let s = self
            .shape(layout.dims())
            .map_err(candle_core::Error::wrap)?;
        let out = match storage {
            CpuStorage::F32(_) => f32::storage(self.forward(numbers(storage, layout)?, s)),
            CpuStorage::F64(_) => f64::storage(self.forward(numbers(storage, layout)?, s)),
            _ => candle_core::bail!("{} on the CPU: expected f32 or f64", self.name()),
        };
        Ok((out, (s[0], s[1], s[4], s[5]).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        fn run<T: Number>(
            pool: &Pool,
            (x, y): (&Tensor, &Tensor),
            grad: &Tensor,
            s: [usize; 6],
        ) -> candle_core::Result<Tensor> {
            let (x, y, grad) = (x.contiguous()?, y.contiguous()?, grad.contiguous()?);
            let ((xs, xl), (ys, yl)) = (x.storage_and_layout(), y.storage_and_layout());
            let (gs, gl) = grad.storage_and_layout();
            let both = (slice(&xs, xl)?, slice(&ys, yl)?);
            let out = pool.backward::<T>(both, slice(&gs, gl)?, s);
            Tensor::from_vec(out, x.shape(), x.device())
        }
        let s = self.shape(x.dims()).map_err(candle_core::Error::wrap)?;
        Ok(Some(match x.dtype() {
            DType::F64 => run::<f64>(self, (x, y), grad, s)?,
            _ => run::<f32>(self, (x, y), grad, s)?,
        }))
    }
}

/// Pooling by strided slices of the padded image, one per window position, for devices without a
/// kernel in this crate.
fn composed(pool: Pool, x: &Tensor, [_, _, h, w, oh, ow]: [usize; 6]) -> Result<Tensor> {
    let c = pool.config;
    let far = |o: usize, n: usize| ((o - 1) * c.stride + c.kernel).saturating_sub(n + c.padding);
    // Far below any activation, but finite: an infinite value would give 0·∞ = NaN in the
    // backward pass.
    let fill = if pool.kind == Kind::Max { -1e30 } else { 0.0 };
    let pad = |t: &Tensor, dim: usize, left: usize, right: usize| -> candle_core::Result<Tensor> {
        let part = |n: usize| -> candle_core::Result<Tensor> {
            let mut dims = t.dims().to_vec();
            dims[dim] = n;
            Tensor::full(fill as f32, dims, t.device())?.to_dtype(t.dtype())
        };
        let mut parts = Vec::new();
        if left > 0 {
            parts.push(part(left)?);
        }
        parts.push(t.clone());
        if right > 0 {
            parts.push(part(right)?);
        }
        Tensor::cat(&parts, dim)
    };
    let padded = pad(&pad(x, 2, c.padding, far(oh, h))?, 3, c.padding, far(ow, w))?;
    let index = |k: usize, n: usize| -> candle_core::Result<Tensor> {
        let at: Vec<u32> = (0..n).map(|o| (o * c.stride + k) as u32).collect();
        Tensor::new(at, x.device())
    };
    let mut pieces = Vec::new();
    for ky in 0..c.kernel {
        let rows = padded.index_select(&index(ky, oh)?, 2)?;
        for kx in 0..c.kernel {
            pieces.push(rows.index_select(&index(kx, ow)?, 3)?);
        }
    }
    let stacked = Tensor::stack(&pieces, 0)?;
    if pool.kind == Kind::Max {
        // Selects by the index of the maximum, so that only one of several equal elements gets
        // the gradient.
        let winner = stacked.argmax_keepdim(0)?.contiguous()?;
        return Ok(stacked.contiguous()?.gather(&winner, 0)?.squeeze(0)?);
    }
    let mut shares = Vec::with_capacity(oh * ow);
    for oy in 0..oh {
        for ox in 0..ow {
            shares.push(pool.divisor((oy, ox), (h, w)).recip() as f32);
        }
    }
    let shares = Tensor::from_vec(shares, (1, 1, oh, ow), x.device())?.to_dtype(x.dtype())?;
    Ok(stacked.sum(0)?.broadcast_mul(&shares)?)
}

fn apply(pool: Pool, x: &Tensor) -> Result<Tensor> {
    let s = pool.shape(x.dims())?;
    if crate::has_kernel(x) {
        Ok(x.contiguous()?.apply_op1(pool)?)
    } else {
        composed(pool, x, s)
    }
}

/// Returns the maximum of each window of images (batch, channels, h, w). The gradient goes to the
/// first maximum.
///
/// # Errors
/// [`Error::Shape`] if `x` does not have four dimensions or an image is smaller than the window;
/// [`Error::Invalid`] if the settings are out of range.
pub fn max_pool2d(x: &Tensor, config: PoolConfig) -> Result<Tensor> {
    apply(
        Pool {
            kind: Kind::Max,
            config,
        },
        x,
    )
}

/// Returns the mean of each window of images (batch, channels, h, w).
///
/// # Errors
/// [`Error::Shape`] if `x` does not have four dimensions or an image is smaller than the window;
/// [`Error::Invalid`] if the settings are out of range.
pub fn avg_pool2d(x: &Tensor, config: PoolConfig) -> Result<Tensor> {
    apply(
        Pool {
            kind: Kind::Mean,
            config,
        },
        x,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use candle_core::{Device, Var};

    /// The slices for other devices give the same values and gradients as the kernel.
    #[test]
    fn composition_equals_kernel() -> Result<()> {
        for (kind, config) in [
            (
                Kind::Max,
                PoolConfig {
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                    ceil: false,
                    count_padding: false,
                },
            ),
            (
                Kind::Max,
                PoolConfig {
                    kernel: 3,
                    stride: 2,
                    padding: 0,
                    ceil: true,
                    count_padding: true,
                },
            ),
            (
                Kind::Mean,
                PoolConfig {
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                    ceil: true,
                    count_padding: true,
                },
            ),
        ] {
            let pool = Pool { kind, config };
            let x = Var::from_tensor(&Rng::new(1).normal((2, 3, 8, 7), &Device::Cpu)?)?;
            let one = apply(pool, &x)?;
            let other = composed(pool, &x, pool.shape(x.dims())?)?;
            assert_eq!(one.dims(), other.dims());
            let far =
                |a: &Tensor, b: &Tensor| (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
            assert!(far(&one, &other)? < 1e-6);
            let (g1, g2) = (
                one.sqr()?.sum_all()?.backward()?,
                other.sqr()?.sum_all()?.backward()?,
            );
            let (Some(g1), Some(g2)) = (g1.get(&x), g2.get(&x)) else {
                panic!("no gradient")
            };
            assert!(far(g1, g2)? < 1e-5);
        }
        Ok(())
    }
}
