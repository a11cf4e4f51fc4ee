//! Convolution and transposed convolution as matrix products over patches, forward and backward.
//!
//! candle's convolution has the right values, but its gradients are a direct transposed convolution and a
//! convolution with an image-sized kernel, which no CPU does well. Here both directions are matrix products
//! over the same patch matrix ("im2col" and its adjoint), with bias and leaky ReLU in the same pass.

use super::Scope;
use super::params::Init;
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, Var, WithDType};
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;

/// What follows a convolution in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(x, slope·x), slope in (0, 1]; 0 is the ordinary ReLU.
    Leaky(f64),
}

/// Stride, padding and activation.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ConvConfig {
    /// Step between patches in pixels, in both directions, at least 1.
    pub stride: usize,
    /// Zeros around the image in pixels: (above and below, left and right); for a transposed convolution what is cut off, as in PyTorch.
    pub padding: (usize, usize),
    /// What follows.
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

/// The patches of an image: `positions` of them, each `channels·kernel²` numbers.
#[derive(Clone, Copy, Debug)]
struct Patches {
    channels: usize,
    height: usize,
    width: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
    out_height: usize,
    out_width: usize,
}

/// Numbers that the matrix product knows.
pub(super) trait Number:
    WithDType + Default + Copy + std::ops::AddAssign + std::ops::Mul<Output = Self> + PartialOrd
{
    const ONE: Self;
    fn take_scratch(length: usize) -> Vec<Self>;
    fn give_scratch(buffer: Vec<Self>);
    fn storage(values: Vec<Self>) -> CpuStorage;
}

macro_rules! number {
    ($t:ty, $variant:ident, $pool:ident) => {
        thread_local! { static $pool: RefCell<Vec<Vec<$t>>> = const { RefCell::new(Vec::new()) }; }
        impl Number for $t {
            const ONE: Self = 1.0;
            // Patch matrices are as large as a layer: reuse them, page faults cost more than the copy.
            fn take_scratch(length: usize) -> Vec<Self> {
                let mut buffer = $pool.with(|p| p.borrow_mut().pop()).unwrap_or_default();
                if buffer.len() < length {
                    buffer.resize(length, 0.0);
                }
                buffer
            }
            fn give_scratch(buffer: Vec<Self>) {
                $pool.with(|p| p.borrow_mut().push(buffer));
            }
            fn storage(values: Vec<Self>) -> CpuStorage {
                CpuStorage::$variant(values)
            }
        }
    };
}
number!(f32, F32, SCRATCH32);
number!(f64, F64, SCRATCH64);

impl Patches {
    fn positions(&self) -> usize {
        self.out_height * self.out_width
    }

    fn length(&self) -> usize {
        self.channels * self.kernel.0 * self.kernel.1
    }

    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// A patch matrix equal to the image itself: no copy needed.
    fn is_image(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == (0, 0)
    }

    /// The output columns whose patch pixel `k` lies inside a line of `size` pixels with `padding` before it.
    fn inside(&self, k: usize, padding: usize, size: usize, outputs: usize) -> (usize, usize) {
        let first = padding.saturating_sub(k).div_ceil(self.stride);
        let last = (size + padding)
            .saturating_sub(k)
            .div_ceil(self.stride)
            .min(outputs);
        (first.min(last), last)
    }

    /// Calls `f(row of the patch matrix, its range, start in the image)` for every run of pixels.
    #[inline(always)]
    fn runs(&self, mut f: impl FnMut(usize, usize, usize, Option<usize>)) {
        let (kh, kw) = self.kernel;
        let mut row = 0;
        for c in 0..self.channels {
            for ky in 0..kh {
                let (y0, y1) = self.inside(ky, self.padding.0, self.height, self.out_height);
                for kx in 0..kw {
                    let (x0, x1) = self.inside(kx, self.padding.1, self.width, self.out_width);
                    for oy in 0..self.out_height {
                        let at = row * self.positions() + oy * self.out_width;
                        if oy < y0 || oy >= y1 || x0 >= x1 {
                            f(at, 0, 0, None);
                        } else {
                            let iy = oy * self.stride + ky - self.padding.0;
                            let ix = x0 * self.stride + kx - self.padding.1;
                            f(at, x0, x1, Some((c * self.height + iy) * self.width + ix));
                        }
                    }
                    row += 1;
                }
            }
        }
    }

    /// The patch matrix (length, positions) of an image, rows `stride_out` apart from `offset` on.
    fn gather<T: Number>(&self, image: &[T], out: &mut [T], pitch: usize, offset: usize) {
        let positions = self.positions();
        self.runs(|at, x0, x1, start| {
            let (row, inner) = (at / positions, at % positions);
            let line = &mut out[row * pitch + offset + inner..][..self.out_width];
            match start {
                None => line.fill(T::default()),
                Some(start) => {
                    line[..x0].fill(T::default());
                    line[x1..].fill(T::default());
                    let source = &image[start..];
                    if self.stride == 1 {
                        line[x0..x1].copy_from_slice(&source[..x1 - x0]);
                    } else {
                        for (o, i) in line[x0..x1]
                            .iter_mut()
                            .zip(source.iter().step_by(self.stride))
                        {
                            *o = *i;
                        }
                    }
                }
            }
        });
    }

    /// The adjoint of [`Patches::gather`]: adds a patch matrix back onto an image.
    fn scatter<T: Number>(&self, patches: &[T], image: &mut [T], pitch: usize, offset: usize) {
        let positions = self.positions();
        self.runs(|at, x0, x1, start| {
            let Some(start) = start else { return };
            let (row, inner) = (at / positions, at % positions);
            let line = &patches[row * pitch + offset + inner..][..self.out_width];
            let target = &mut image[start..];
            if self.stride == 1 {
                for (o, i) in target.iter_mut().zip(&line[x0..x1]) {
                    *o += *i;
                }
            } else {
                for (o, i) in target.iter_mut().step_by(self.stride).zip(&line[x0..x1]) {
                    *o += *i;
                }
            }
        });
    }

    /// How many images share one matrix product: enough columns to be quick, enough products for all threads.
    /// It depends on the shapes alone, so that sums have the same order for any number of threads.
    fn together(&self, batch: usize) -> usize {
        256usize
            .div_ceil(self.positions().max(1))
            .min(batch.div_ceil(4))
            .max(1)
    }
}

/// A matrix in memory: where it starts, and the steps between rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) values: &'a [T],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// out (m × n, rows `pitch` apart) = keep·out + a (m × k) · b (k × n), on this thread.
pub(super) fn product<T: Number>(
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: &mut [T],
    pitch: usize,
    keep: bool,
) {
    let (m, n, _) = sizes;
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * pitch + n <= out.len());
    // SAFETY: the assertion is the bound of every element of `out`.
    unsafe { product_at(sizes, a, b, out.as_mut_ptr(), pitch, keep) };
}

/// Rows of a result that one thread computes at a time. It is fixed, so that no number of threads changes a sum.
const SHARE: usize = 256;

/// From this many multiplications on, more threads pay for a product.
const LARGE: usize = 1 << 22;

/// As [`product`] where the rows of `out` follow each other, on all threads where it is large enough.
pub(super) fn product_shared<T: Number>(
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: &mut [T],
    keep: bool,
) {
    if m <= SHARE || m * n * k < LARGE {
        return product((m, n, k), a, b, out, n, keep);
    }
    let shares = out[..m * n].par_chunks_mut(SHARE * n).enumerate();
    shares.for_each(|(i, out)| {
        let a = Matrix {
            values: &a.values[i * SHARE * a.row..],
            ..a
        };
        product((out.len() / n, n, k), a, b, out, n, keep);
    });
}

/// a (m × k) · b (k × n), row by row, on this thread; its memory is written once.
pub(super) fn product_new<T: Number>(
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    let (m, n, k) = sizes;
    if k == 0 {
        return vec![T::default(); m * n];
    }
    let mut out: Vec<T> = Vec::with_capacity(m * n);
    if m * n > 0 {
        // SAFETY: there is room for the m·n elements, and the product, which does not read them, writes each.
        unsafe {
            product_at(sizes, a, b, out.as_mut_ptr(), n, false);
            out.set_len(m * n);
        }
    }
    out
}

/// # Safety
/// `out` must have room for m rows of n elements, `pitch` apart; with `keep` they must have been written.
unsafe fn product_at<T: Number>(
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: *mut T,
    pitch: usize,
    keep: bool,
) {
    if k == 0 {
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.values.len());
    assert!((k - 1) * b.row + (n - 1) * b.column < b.values.len());
    // SAFETY: the assertions above are the bounds of every element that is read, the caller's promise those
    // of what is written.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            pitch as isize,
            keep,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Copies `images` blocks of (channels, positions) into one matrix (channels, images·positions).
fn side_by_side<T: Number>(
    blocks: &[T],
    out: &mut [T],
    channels: usize,
    positions: usize,
    images: usize,
) {
    for g in 0..images {
        for c in 0..channels {
            out[(c * images + g) * positions..][..positions]
                .copy_from_slice(&blocks[(g * channels + c) * positions..][..positions]);
        }
    }
}

/// The reverse of [`side_by_side`].
fn apart<T: Number>(
    matrix: &[T],
    blocks: &mut [T],
    channels: usize,
    positions: usize,
    images: usize,
) {
    for g in 0..images {
        for c in 0..channels {
            blocks[(g * channels + c) * positions..][..positions]
                .copy_from_slice(&matrix[(c * images + g) * positions..][..positions]);
        }
    }
}

/// What both operations share: `few` channels at the patches' positions, `patches` of the image side.
/// A convolution reads the image side and writes the position side; a transposed one the reverse.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    batch: usize,
    channels: usize,
    patches: Patches,
}

impl Geometry {
    /// positions side = weight (channels × length) · patches(image side).
    fn project<T: Number>(&self, image: &[T], weight: &[T], out: &mut [T]) {
        let (p, n) = (&self.patches, self.patches.positions());
        let (g, length) = (p.together(self.batch), p.length());
        out.par_chunks_mut(g * self.channels * n)
            .zip(image.par_chunks(g * p.image()))
            .for_each(|(out, image)| {
                let images = image.len() / p.image();
                let w = Matrix {
                    values: weight,
                    row: length,
                    column: 1,
                };
                if images == 1 && p.is_image() {
                    let cols = Matrix {
                        values: image,
                        row: n,
                        column: 1,
                    };
                    product((self.channels, n, length), w, cols, out, n, false);
                    return;
                }
                let pitch = images * n;
                let mut cols = T::take_scratch(length * pitch);
                for (i, image) in image.chunks(p.image()).enumerate() {
                    p.gather(image, &mut cols, pitch, i * n);
                }
                let c = Matrix {
                    values: &cols,
                    row: pitch,
                    column: 1,
                };
                if images == 1 {
                    product((self.channels, n, length), w, c, out, n, false);
                } else {
                    let mut wide = T::take_scratch(self.channels * pitch);
                    product(
                        (self.channels, pitch, length),
                        w,
                        c,
                        &mut wide,
                        pitch,
                        false,
                    );
                    apart(&wide, out, self.channels, n, images);
                    T::give_scratch(wide);
                }
                T::give_scratch(cols);
            });
    }

    /// image side = the adjoint of [`Geometry::project`] in the image; `out` must be zero.
    fn spread<T: Number>(&self, positions: &[T], weight: &[T], out: &mut [T]) {
        let (p, n) = (&self.patches, self.patches.positions());
        let (g, length) = (p.together(self.batch), p.length());
        out.par_chunks_mut(g * p.image())
            .zip(positions.par_chunks(g * self.channels * n))
            .for_each(|(out, positions)| {
                let images = out.len() / p.image();
                let pitch = images * n;
                let wt = Matrix {
                    values: weight,
                    row: 1,
                    column: length,
                };
                let mut wide = Vec::new();
                let right = if images == 1 {
                    positions
                } else {
                    wide = T::take_scratch(self.channels * pitch);
                    side_by_side(positions, &mut wide, self.channels, n, images);
                    &wide
                };
                let right = Matrix {
                    values: right,
                    row: pitch,
                    column: 1,
                };
                if images == 1 && p.is_image() {
                    product((length, n, self.channels), wt, right, out, n, false);
                } else {
                    let mut cols = T::take_scratch(length * pitch);
                    product(
                        (length, pitch, self.channels),
                        wt,
                        right,
                        &mut cols,
                        pitch,
                        false,
                    );
                    for (i, image) in out.chunks_mut(p.image()).enumerate() {
                        p.scatter(&cols, image, pitch, i * n);
                    }
                    T::give_scratch(cols);
                }
                if images > 1 {
                    T::give_scratch(wide);
                }
            });
    }

    /// The gradient of the weight (channels × length): Σ over images of positions · patchesᵀ.
    fn correlate<T: Number>(&self, image: &[T], positions: &[T]) -> Vec<T> {
        // A fixed number of partial sums, whatever the number of threads: same sums, same order.
        const LANES: usize = 8;
        let (p, n) = (&self.patches, self.patches.positions());
        let (g, length) = (p.together(self.batch), p.length());
        let chunks = self.batch.div_ceil(g);
        let per_lane = chunks.div_ceil(LANES).max(1) * g;
        let partial: Vec<Vec<T>> = image
            .par_chunks(per_lane * p.image())
            .zip(positions.par_chunks(per_lane * self.channels * n))
            .map(|(image, positions)| {
                let mut sum = vec![T::default(); self.channels * length];
                let pieces = image
                    .chunks(g * p.image())
                    .zip(positions.chunks(g * self.channels * n));
                for (nth, (image, positions)) in pieces.enumerate() {
                    let images = image.len() / p.image();
                    let pitch = images * n;
                    let mut cols = Vec::new();
                    let mut wide = Vec::new();
                    let right = if images == 1 && p.is_image() {
                        image
                    } else {
                        cols = T::take_scratch(length * pitch);
                        for (i, image) in image.chunks(p.image()).enumerate() {
                            p.gather(image, &mut cols, pitch, i * n);
                        }
                        &cols
                    };
                    let left = if images == 1 {
                        positions
                    } else {
                        wide = T::take_scratch(self.channels * pitch);
                        side_by_side(positions, &mut wide, self.channels, n, images);
                        &wide
                    };
                    let left = Matrix {
                        values: left,
                        row: pitch,
                        column: 1,
                    };
                    let right = Matrix {
                        values: right,
                        row: 1,
                        column: pitch,
                    };
                    product(
                        (self.channels, length, pitch),
                        left,
                        right,
                        &mut sum,
                        length,
                        nth > 0,
                    );
                    if !cols.is_empty() {
                        T::give_scratch(cols);
                    }
                    if !wide.is_empty() {
                        T::give_scratch(wide);
                    }
                }
                sum
            })
            .collect();
        let mut partial = partial.into_iter();
        let mut total = partial
            .next()
            .unwrap_or_else(|| vec![T::default(); self.channels * length]);
        for part in partial {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        total
    }
}

/// Adds the bias per channel and applies the activation, in place.
fn finish<T: Number>(out: &mut [T], bias: &[T], positions: usize, activation: Activation) {
    out.par_chunks_mut(positions * bias.len())
        .for_each(|image| {
            for (plane, &b) in image.chunks_mut(positions).zip(bias) {
                match activation {
                    Activation::None => plane.iter_mut().for_each(|v| *v += b),
                    Activation::Leaky(slope) => {
                        let slope = T::from_f64(slope);
                        for v in plane {
                            let x = *v + b;
                            *v = if x > T::default() { x } else { slope * x };
                        }
                    }
                }
            }
        });
}

/// The gradient before the activation, from the sign of the result, which it keeps.
fn unfinish<'a, T: Number>(
    result: &[T],
    gradient: &'a [T],
    image: usize,
    activation: Activation,
) -> Cow<'a, [T]> {
    let Activation::Leaky(slope) = activation else {
        return Cow::Borrowed(gradient);
    };
    let slope = T::from_f64(slope);
    let mut before = gradient.to_vec();
    before
        .par_chunks_mut(image)
        .zip(result.par_chunks(image))
        .for_each(|(b, r)| {
            for (b, r) in b.iter_mut().zip(r) {
                let factor = if *r > T::default() { T::ONE } else { slope };
                *b = factor * *b;
            }
        });
    Cow::Owned(before)
}

/// The sum of a gradient over images and positions.
fn bias_gradient<T: Number>(gradient: &[T], channels: usize, positions: usize) -> Vec<T> {
    let mut bias = vec![T::default(); channels];
    for image in gradient.chunks(positions * channels) {
        for (plane, total) in image.chunks(positions).zip(&mut bias) {
            // Eight sums side by side: vectorised, and more exact than one long sum.
            let mut sums = [T::default(); 8];
            let mut blocks = plane.chunks_exact(8);
            for block in &mut blocks {
                sums.iter_mut().zip(block).for_each(|(s, v)| *s += *v);
            }
            sums.iter_mut()
                .zip(blocks.remainder())
                .for_each(|(s, v)| *s += *v);
            sums.into_iter().for_each(|s| *total += s);
        }
    }
    bias
}

#[derive(Clone, Copy)]
struct Convolution {
    config: ConvConfig,
    transposed: bool,
}

impl Convolution {
    /// Shapes of image (b, c, h, w), weight, bias to geometry; the message names what does not fit.
    fn geometry(&self, x: &[usize], w: &[usize], b: &[usize]) -> Result<Geometry> {
        let name = if self.transposed {
            "transposed convolution"
        } else {
            "convolution"
        };
        let (&[batch, c_in, h, wd], &[w0, w1, kh, kw], &[c_bias]) = (x, w, b) else {
            return Err(Error::invalid(format!(
                "{name}: expected an image (batch, channels, height, width), a weight of four and a bias of one dimension, found {x:?}, {w:?}, {b:?}"
            )));
        };
        let ConvConfig {
            stride, padding, ..
        } = self.config;
        let (expected_in, c_out) = if self.transposed { (w0, w1) } else { (w1, w0) };
        if c_in != expected_in || c_bias != c_out || stride == 0 || kh == 0 || kw == 0 || batch == 0
        {
            return Err(Error::invalid(format!(
                "{name}: weight {w:?} takes {expected_in} channels and gives {c_out}; found an image {x:?}, a bias of {c_bias}, stride {stride}"
            )));
        }
        let none = || {
            Error::invalid(format!(
                "{name}: kernel {kh}×{kw}, padding {padding:?} and stride {stride} leave nothing of an image {x:?}"
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
        let (n, c, h, wd) = self.result_shape(g);
        let mut out = vec![T::default(); n * c * h * wd];
        if self.transposed {
            g.spread(x, w, &mut out);
        } else {
            g.project(x, w, &mut out);
        }
        finish(&mut out, b, h * wd, self.config.activation);
        out
    }

    /// Gradients of image, weight and bias, those that `wanted` asks for.
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
        let before = unfinish(result, gradient, c * h * wd, self.config.activation);
        let dx = wanted[0].then(|| {
            let mut dx = vec![T::default(); x.len()];
            if self.transposed {
                g.project(&before, w, &mut dx);
            } else {
                g.spread(&before, w, &mut dx);
            }
            dx
        });
        let dw = wanted[1].then(|| {
            if self.transposed {
                g.correlate(&before, x)
            } else {
                g.correlate(x, &before)
            }
        });
        [dx, dw, wanted[2].then(|| bias_gradient(&before, c, h * wd))]
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
        // Frozen weights, constant biases and the data at a network's entrance cost nothing.
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

fn slice<'a, T: WithDType>(
    storage: &'a candle_core::Storage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match storage {
        candle_core::Storage::Cpu(s) => cpu_slice(s, layout),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

fn cpu_slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg("expected a contiguous tensor".into()))?;
    Ok(&storage.as_slice::<T>()?[start..end])
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
                cpu_slice(x.0, x.1)?,
                cpu_slice(w.0, w.1)?,
                cpu_slice(b.0, b.1)?,
            );
            Ok((T::storage(out), c.result_shape(&g).into()))
        }
        match x {
            CpuStorage::F32(_) => run::<f32>(self, (x, xl), (w, wl), (b, bl)),
            CpuStorage::F64(_) => run::<f64>(self, (x, xl), (w, wl), (b, bl)),
            _ => candle_core::bail!("{} on the CPU: expected f32 or f64", self.name()),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = match x.dtype() {
            DType::F64 => self.bwd_of::<f64>(x, w, b, res, grad),
            _ => self.bwd_of::<f32>(x, w, b, res, grad),
        }
        .map_err(candle_core::Error::wrap)?;
        Ok((dx, dw, db))
    }
}

fn apply(op: Convolution, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    op.geometry(x.dims(), weight.dims(), bias.dims())?;
    if x.device().is_cpu() {
        return Ok(x
            .contiguous()?
            .apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?);
    }
    let ConvConfig {
        stride,
        padding,
        activation,
    } = op.config;
    // candle's take one padding: what differs by direction is padded before, or cut off after.
    let both = padding.0.min(padding.1);
    let rest = (padding.0 - both, padding.1 - both);
    let y = if op.transposed {
        let y = x.conv_transpose2d(weight, both, 0, stride, 1)?;
        let (height, width) = (y.dim(2)? - 2 * rest.0, y.dim(3)? - 2 * rest.1);
        y.narrow(2, rest.0, height)?.narrow(3, rest.1, width)?
    } else {
        let x = x.pad_with_zeros(2, rest.0, rest.0)?;
        let x = x.pad_with_zeros(3, rest.1, rest.1)?;
        x.conv2d(weight, both, stride, 1, 1)?
    };
    let y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    Ok(match activation {
        Activation::None => y,
        Activation::Leaky(slope) => candle_nn::ops::leaky_relu(&y, slope)?,
    })
}

/// Convolution of images (batch, in, h, w) with a weight (out, in, kh, kw) and a bias (out,), as PyTorch's
/// `conv2d` (cross-correlation), followed by the activation of `config`. f32 or f64.
///
/// # Errors
/// [`Error::Invalid`] where the shapes do not fit.
///
/// ```
/// use invariances::{candle_core::{DType, Device, Tensor}, ops::{self, ConvConfig}};
/// let x = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let w = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let b = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
/// let y = ops::conv2d(&x, &w, &b, ConvConfig { padding: (1, 1), ..Default::default() })?;
/// assert_eq!(y.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?[1], [6., 9., 6.]);
/// # Ok::<(), invariances::Error>(())
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

/// Transposed convolution of images (batch, in, h, w) with a weight (in, out, kh, kw) and a bias (out,), as
/// PyTorch's `conv_transpose2d`: (h−1)·stride − 2·padding + kh pixels high. f32 or f64.
///
/// # Errors
/// [`Error::Invalid`] where the shapes do not fit.
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

/// A convolution or transposed convolution with its parameters `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Var,
    bias: Var,
    config: ConvConfig,
    transposed: bool,
}

impl Conv2d {
    /// A convolution of a square kernel, its weight started by `init` and its bias by zero.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        init: Init,
        at: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs, kernel, kernel), "weight", init)?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
            config,
            transposed: false,
        })
    }

    /// A transposed convolution, as [`Conv2d::new`].
    pub fn transposed(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        // Each output pixel sums over inputs·(kernel/stride)² numbers.
        let fan_in =
            (inputs * kernel * kernel) as f64 / (config.stride * config.stride).max(1) as f64;
        Ok(Self {
            weight: at.get(
                (inputs, outputs, kernel, kernel),
                "weight",
                Init::Normal((2.0 / fan_in).sqrt()),
            )?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
            config,
            transposed: true,
        })
    }

    /// (batch, in, h, w) to (batch, out, h', w').
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let op = Convolution {
            config: self.config,
            transposed: self.transposed,
        };
        apply(op, x, self.weight.as_tensor(), self.bias.as_tensor())
    }
}

/// A linear layer with its parameters `weight` (out, in) and `bias` (out,).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Var,
    bias: Var,
}

impl Linear {
    /// A linear layer, its weight started by `init` and its bias by zero.
    pub fn new(inputs: usize, outputs: usize, init: Init, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs), "weight", init)?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
        })
    }

    /// (batch, in) to (batch, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}
