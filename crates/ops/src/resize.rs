//! Resizing of images with gradients: bilinear, bicubic, nearest neighbour and adaptive average
//! pooling.
//!
//! candle's `upsample_bilinear2d` has no gradient, and the gradient of its `upsample_nearest2d`
//! overwrites the gradient that a tensor has already accumulated. Here each operation is a
//! weighted sum over rows and one over columns, and the gradient is the transposed sum.

use crate::kernels::Number;
use crate::slices::numbers;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};
use rayon::prelude::*;

/// The weights that map an axis of `inputs` pixels to an axis of another length: each output
/// pixel is a weighted sum of neighbouring input pixels.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    inputs: usize,
    /// For each output pixel: the index of its first input pixel, and the weights of this pixel
    /// and of the pixels after it.
    taps: Vec<(usize, Vec<f64>)>,
}

impl Axis {
    /// PyTorch's `bilinear` with `align_corners=False`. With `antialias` the triangle filter
    /// widens with the reduction factor.
    fn linear(inputs: usize, outputs: usize, antialias: bool) -> Self {
        let scale = inputs as f64 / outputs as f64;
        let taps = (0..outputs).map(|o| {
            if antialias && scale > 1.0 {
                let centre = (o as f64 + 0.5) * scale;
                let first = (centre - scale + 0.5).max(0.0) as usize;
                let end = ((centre + scale + 0.5) as usize).min(inputs);
                let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / scale).abs()).max(0.0);
                let weights: Vec<f64> = (first..end).map(weight).collect();
                let sum: f64 = weights.iter().sum();
                return (first, weights.iter().map(|w| w / sum).collect());
            }
            let at = ((o as f64 + 0.5) * scale - 0.5).max(0.0);
            let first = (at as usize).min(inputs - 1);
            let share = at - first as f64;
            if share == 0.0 || first + 1 == inputs {
                (first, vec![1.0])
            } else {
                (first, vec![1.0 - share, share])
            }
        });
        Self {
            inputs,
            taps: taps.collect(),
        }
    }

    /// PyTorch's `bicubic` with `align_corners=False`.
    fn cubic(inputs: usize, outputs: usize) -> Self {
        const A: f64 = -0.75;
        let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
        let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
        let scale = inputs as f64 / outputs as f64;
        let last = inputs as f64 - 1.0;
        let taps = (0..outputs).map(|o| {
            let at = (o as f64 + 0.5) * scale - 0.5;
            let (base, t) = (at.floor(), at - at.floor());
            let four = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            // Positions outside the image take the nearest border pixel.
            let pixel = |k: usize| (base + k as f64 - 1.0).clamp(0.0, last) as usize;
            let first = pixel(0);
            let mut weights = vec![0.0; pixel(3) - first + 1];
            for (k, w) in four.into_iter().enumerate() {
                weights[pixel(k) - first] += w;
            }
            (first, weights)
        });
        Self {
            inputs,
            taps: taps.collect(),
        }
    }

    /// PyTorch's `nearest`.
    fn nearest(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            taps: (0..outputs)
                .map(|o| (o * inputs / outputs, vec![1.0]))
                .collect(),
        }
    }

    /// PyTorch's `adaptive_avg_pool`: the windows overlap if `outputs` does not divide `inputs`.
    fn adaptive(inputs: usize, outputs: usize) -> Self {
        let taps = (0..outputs).map(|o| {
            let first = o * inputs / outputs;
            let count = ((o + 1) * inputs).div_ceil(outputs) - first;
            (first, vec![1.0 / count as f64; count])
        });
        Self {
            inputs,
            taps: taps.collect(),
        }
    }

    fn outputs(&self) -> usize {
        self.taps.len()
    }

    fn is_identity(&self) -> bool {
        self.inputs == self.outputs()
            && self
                .taps
                .iter()
                .enumerate()
                .all(|(o, (first, weights))| *first == o && weights[..] == [1.0])
    }

    /// Returns the weights as a matrix (outputs, inputs), for devices without a kernel in this
    /// crate.
    fn matrix(&self, like: &Tensor) -> Result<Tensor> {
        let mut values = vec![0f32; self.outputs() * self.inputs];
        for (o, (first, weights)) in self.taps.iter().enumerate() {
            for (i, w) in weights.iter().enumerate() {
                values[o * self.inputs + first + i] = *w as f32;
            }
        }
        let matrix = Tensor::from_vec(values, (self.outputs(), self.inputs), like.device())?;
        Ok(matrix.to_dtype(like.dtype())?)
    }
}

/// The resizing of both axes of an image. With `adjoint` it is the backward pass: it maps the
/// gradient of the output to the gradient of the input.
#[derive(Clone)]
struct Separable {
    rows: Axis,
    columns: Axis,
    adjoint: bool,
}

impl Separable {
    fn sizes(&self) -> ([usize; 2], [usize; 2]) {
        let small = [self.rows.inputs, self.columns.inputs];
        let large = [self.rows.outputs(), self.columns.outputs()];
        if self.adjoint {
            (large, small)
        } else {
            (small, large)
        }
    }

    fn kernel<T: Number>(&self, x: &[T]) -> Vec<T> {
        let ([h, w], [oh, ow]) = self.sizes();
        let mut out = vec![T::default(); x.len() / (h * w) * oh * ow];
        let (height, width) = (self.rows.outputs(), self.columns.inputs);
        out.par_chunks_mut(oh * ow)
            .zip(x.par_chunks(h * w))
            .for_each_init(
                || vec![T::default(); height * width],
                |middle, (out, x)| {
                    middle.fill(T::default());
                    if self.adjoint {
                        self.columns_back(x, middle);
                        self.rows_back(middle, out);
                    } else {
                        self.rows_forward(x, middle);
                        self.columns_forward(middle, out);
                    }
                },
            );
        out
    }

    fn rows_forward<T: Number>(&self, x: &[T], middle: &mut [T]) {
        let width = self.columns.inputs;
        for ((first, weights), line) in self.rows.taps.iter().zip(middle.chunks_mut(width)) {
            for (i, &weight) in weights.iter().enumerate() {
                let weight = T::from_f64(weight);
                let source = &x[(first + i) * width..][..width];
                line.iter_mut()
                    .zip(source)
                    .for_each(|(l, &s)| *l += weight * s);
            }
        }
    }

    fn columns_forward<T: Number>(&self, middle: &[T], out: &mut [T]) {
        let lines = middle.chunks(self.columns.inputs);
        for (line, out) in lines.zip(out.chunks_mut(self.columns.outputs())) {
            for (o, (first, weights)) in out.iter_mut().zip(&self.columns.taps) {
                let mut sum = T::default();
                for (&value, &weight) in line[*first..].iter().zip(weights) {
                    sum += T::from_f64(weight) * value;
                }
                *o = sum;
            }
        }
    }

    fn columns_back<T: Number>(&self, gradient: &[T], middle: &mut [T]) {
        let lines = middle.chunks_mut(self.columns.inputs);
        for (line, gradient) in lines.zip(gradient.chunks(self.columns.outputs())) {
            for (&g, (first, weights)) in gradient.iter().zip(&self.columns.taps) {
                for (value, &weight) in line[*first..].iter_mut().zip(weights) {
                    *value += T::from_f64(weight) * g;
                }
            }
        }
    }

    fn rows_back<T: Number>(&self, middle: &[T], out: &mut [T]) {
        let width = self.columns.inputs;
        for ((first, weights), line) in self.rows.taps.iter().zip(middle.chunks(width)) {
            for (i, &weight) in weights.iter().enumerate() {
                let weight = T::from_f64(weight);
                let target = &mut out[(first + i) * width..][..width];
                target
                    .iter_mut()
                    .zip(line)
                    .for_each(|(t, &l)| *t += weight * l);
            }
        }
    }
}

impl CustomOp1 for Separable {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, channels, _, _) = l.shape().dims4()?;
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(self.kernel(numbers(x, l)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.kernel(numbers(x, l)?)),
            other => bail!("resize has no kernel for {:?}", other.dtype()),
        };
        let (_, [h, w]) = self.sizes();
        Ok((out, (batch, channels, h, w).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back = Self {
            adjoint: !self.adjoint,
            ..self.clone()
        };
        Ok(Some(grad.contiguous()?.apply_op1(back)?))
    }
}

/// Applies one weighting to the rows and one to the columns of images (batch, channels, h, w).
fn separable(
    x: &Tensor,
    what: &str,
    (height, width): (usize, usize),
    axis: impl Fn(usize, usize) -> Axis,
) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else {
        return Err(Error::shape(format!(
            "{what}: expected images of shape (batch, channels, height, width), found {:?}",
            x.dims()
        )));
    };
    if x.elem_count() == 0 {
        return Err(Error::shape(format!(
            "{what}: expected at least one image with at least one pixel, found shape {:?}",
            x.dims()
        )));
    }
    if height == 0 || width == 0 || height.max(width) > 1 << 16 {
        return Err(Error::invalid(format!(
            "{what}: expected an output height and width from 1 to 65536, found {height}×{width}"
        )));
    }
    let (rows, columns) = (axis(h, height), axis(w, width));
    if rows.is_identity() && columns.is_identity() {
        return Ok(x.clone());
    }
    if crate::has_kernel(x) {
        let adjoint = false;
        let op = Separable {
            rows,
            columns,
            adjoint,
        };
        return Ok(x.contiguous()?.apply_op1(op)?);
    }
    composed(x, &rows, &columns)
}

/// The same operation as two matrix products, for devices and dtypes without a kernel.
fn composed(x: &Tensor, rows: &Axis, columns: &Axis) -> Result<Tensor> {
    let right = columns.matrix(x)?.t()?.contiguous()?;
    Ok(rows
        .matrix(x)?
        .broadcast_matmul(&x.contiguous()?.broadcast_matmul(&right)?)?)
}

/// Resizes images (batch, channels, h, w) to `size` (height, width), bilinear with
/// `align_corners=False`, as PyTorch's `interpolate(mode="bilinear")`.
///
/// With `antialias`, each pixel of a smaller image is a weighted average of all input pixels
/// around its position, as in PyTorch with `antialias=True` and in Pillow. Without it, a smaller
/// image skips pixels. Differentiable with respect to the images.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use invariances_ops::resize_bilinear;
/// let x = Tensor::new(&[[[[0f32, 1.0]]]], &Device::Cpu)?;
/// let y = resize_bilinear(&x, (1, 4), false)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0.0, 0.25, 0.75, 1.0]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] unless `x` has shape (batch, channels, h, w) with at least one element;
/// [`Error::Invalid`] unless both sides of `size` are from 1 to 65536.
pub fn resize_bilinear(x: &Tensor, size: (usize, usize), antialias: bool) -> Result<Tensor> {
    separable(x, "resizing", size, |i, o| Axis::linear(i, o, antialias))
}

/// Resizes images (batch, channels, h, w) to `size` (height, width), bicubic with
/// `align_corners=False`, as PyTorch's `interpolate(mode="bicubic")`. Differentiable with respect
/// to the images.
///
/// # Errors
/// As [`resize_bilinear`].
pub fn resize_bicubic(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    separable(x, "resizing", size, Axis::cubic)
}

/// Resizes images (batch, channels, h, w) to `size` (height, width), nearest neighbour, as
/// PyTorch's `interpolate(mode="nearest")`: each output pixel is a copy of the input pixel at its
/// position. Differentiable with respect to the images.
///
/// # Errors
/// As [`resize_bilinear`].
pub fn resize_nearest(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    separable(x, "resizing", size, Axis::nearest)
}

/// Averages images (batch, channels, h, w) over `size` (rows, columns) windows that cover them,
/// as PyTorch's `adaptive_avg_pool2d`. Differentiable with respect to the images.
///
/// # Errors
/// As [`resize_bilinear`].
pub fn adaptive_avg_pool2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    separable(x, "adaptive pooling", size, Axis::adaptive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use candle_core::Device;

    /// The matrix products for other devices give the same values as the kernel.
    #[test]
    fn composition_equals_kernel() -> Result<()> {
        let x = Rng::new(1).normal((2, 3, 9, 7), &Device::Cpu)?;
        for axis in [
            |i, o| Axis::linear(i, o, false),
            |i, o| Axis::linear(i, o, true),
            Axis::cubic,
            Axis::nearest,
            Axis::adaptive,
        ] as [fn(usize, usize) -> Axis; 5]
        {
            for size in [(4, 15), (18, 3), (9, 7)] {
                let one = separable(&x, "test", size, axis)?;
                let other = composed(&x, &axis(9, size.0), &axis(7, size.1))?;
                assert_eq!(one.dims(), other.dims());
                let far = (one - other)?.abs()?.flatten_all()?.max(0)?;
                assert!(far.to_scalar::<f32>()? < 1e-5);
            }
        }
        Ok(())
    }
}
