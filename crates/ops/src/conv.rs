//! Convolution and transposed convolution as matrix products over patches, forward and backward;
//! also the layers [`Conv2d`] and [`Linear`].
//!
//! candle's convolution has correct values, but it computes its gradients as a direct transposed
//! convolution and as a convolution with an image-sized kernel, both of which are slow on a CPU.
//! Here both directions are matrix products with the same patch matrix ("im2col" and its
//! adjoint), with bias and leaky ReLU in the same pass.

use super::Scope;
use super::dense::{map2, numbers};
use super::params::Init;
use crate::{Error, Result};
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, Var, WithDType};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// The activation that is applied after a layer, in the same pass.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// No activation.
    None,
    /// Leaky ReLU: max(x, slope·x) with a slope in [0, 1]. Slope 0 is the ordinary ReLU.
    Leaky(f64),
}

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

/// The patches of an image: one per output position, each of `channels·window` elements.
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

/// The element types that the matrix product supports.
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
            // Patch matrices are as large as a layer. They are reused, because page faults cost
            // more than the copy.
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

    /// Number of pixels in a window.
    fn window(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    fn length(&self) -> usize {
        self.channels * self.window()
    }

    /// Number of pixels in a channel.
    fn area(&self) -> usize {
        self.height * self.width
    }

    fn image(&self) -> usize {
        self.channels * self.area()
    }

    /// Whether the patch matrix equals the image itself, so that no copy is needed.
    fn is_image(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == (0, 0)
    }

    /// Returns the range of output rows (or columns) for which pixel `k` of the patch lies inside
    /// an image side of `size` pixels.
    fn inside(&self, k: usize, size: usize, padding: usize, outputs: usize) -> (usize, usize) {
        let first = padding.saturating_sub(k).div_ceil(self.stride);
        let last = (size + padding)
            .saturating_sub(k)
            .div_ceil(self.stride)
            .min(outputs);
        (first.min(last), last)
    }

    /// Calls `f` for each row of the patch matrix of some channels and output rows, with the
    /// range of the row that comes from the image and the position of its first pixel.
    #[inline(always)]
    fn each_row(
        &self,
        channels: &Range<usize>,
        lines: &Range<usize>,
        mut f: impl FnMut(usize, Run),
    ) {
        let (kh, kw) = self.kernel;
        let mut row = 0;
        for c in channels.clone() {
            for ky in 0..kh {
                let (y0, y1) = self.inside(ky, self.height, self.padding.0, self.out_height);
                let y0 = y0.clamp(lines.start, lines.end);
                let y1 = y1.clamp(y0, lines.end);
                for kx in 0..kw {
                    let (x0, x1) = self.inside(kx, self.width, self.padding.1, self.out_width);
                    // The index of the first image pixel in this row of the patch matrix, or 0 if
                    // it has none.
                    let start = if y0 == y1 || x0 == x1 {
                        0
                    } else {
                        let iy = y0 * self.stride + ky - self.padding.0;
                        let ix = x0 * self.stride + kx - self.padding.1;
                        c * self.area() + iy * self.width + ix
                    };
                    let run = Run {
                        y0: y0 - lines.start,
                        y1: if x0 == x1 { y0 } else { y1 } - lines.start,
                        x0,
                        x1,
                        start,
                    };
                    f(row, run);
                    row += 1;
                }
            }
        }
    }

    /// Writes the patch matrix of some channels and output rows of an image to `out`, starting at
    /// `offset`; its rows are `pitch` elements apart.
    fn gather<T: Number>(
        &self,
        image: &[T],
        (channels, lines): (&Range<usize>, &Range<usize>),
        out: &mut [T],
        pitch: usize,
        offset: usize,
    ) {
        let (width, count) = (self.out_width, lines.len());
        let step = self.stride * self.width;
        let zero = T::default();
        self.each_row(channels, lines, |row, run| {
            let out = &mut out[row * pitch + offset..][..count * width];
            let Run {
                y0,
                y1,
                x0,
                x1,
                start,
            } = run;
            out[..y0 * width].fill(zero);
            out[y1 * width..].fill(zero);
            if y0 == y1 {
                return;
            }
            if self.stride == 1 && width == self.width {
                // The output rows are contiguous in source and target: one copy, then zeros at
                // the ends that were copied from neighbouring rows.
                let length = (y1 - y0 - 1) * width + x1 - x0;
                out[y0 * width + x0..][..length].copy_from_slice(&image[start..][..length]);
                if x0 > 0 || x1 < width {
                    for line in out[y0 * width..y1 * width].chunks_mut(width) {
                        line[..x0].fill(zero);
                        line[x1..].fill(zero);
                    }
                }
                return;
            }
            let lines = out[y0 * width..y1 * width].chunks_mut(width);
            for (line, source) in lines.zip(image[start..].chunks(step)) {
                line[..x0].fill(zero);
                line[x1..].fill(zero);
                if self.stride == 1 {
                    line[x0..x1].copy_from_slice(&source[..x1 - x0]);
                } else {
                    let pixels = source.iter().step_by(self.stride);
                    for (o, i) in line[x0..x1].iter_mut().zip(pixels) {
                        *o = *i;
                    }
                }
            }
        });
    }

    /// The adjoint of [`Patches::gather`]: adds a patch matrix to the given number of channels,
    /// with which `image` begins.
    fn scatter<T: Number>(
        &self,
        patches: &[T],
        (channels, lines): (usize, &Range<usize>),
        image: &mut [T],
        pitch: usize,
        offset: usize,
    ) {
        let (width, count) = (self.out_width, lines.len());
        let step = self.stride * self.width;
        self.each_row(&(0..channels), lines, |row, run| {
            let patches = &patches[row * pitch + offset..][..count * width];
            let Run {
                y0,
                y1,
                x0,
                x1,
                start,
            } = run;
            if y0 == y1 {
                return;
            }
            let lines = patches[y0 * width..y1 * width].chunks(width);
            for (line, target) in lines.zip(image[start..].chunks_mut(step)) {
                if self.stride == 1 {
                    for (o, i) in target.iter_mut().zip(&line[x0..x1]) {
                        *o += *i;
                    }
                } else {
                    for (o, i) in target.iter_mut().step_by(self.stride).zip(&line[x0..x1]) {
                        *o += *i;
                    }
                }
            }
        });
    }

    /// Splits the output positions into tiles whose patch matrices fit in a core's cache: rows of
    /// one image, or several small images at once. The split depends only on the shapes, so the
    /// order of sums is the same for any number of threads.
    fn tiles(&self, batch: usize) -> Vec<Tile> {
        self.tiles_of(batch, self.length(), 4)
    }

    /// As [`Patches::tiles`], for patch matrices of `length` rows; aims for at least `least`
    /// tiles if the batch has that many images.
    fn tiles_of(&self, batch: usize, length: usize, least: usize) -> Vec<Tile> {
        let wanted = (CACHED / length.max(1)).clamp(64, 1024);
        let n = self.positions();
        if n > wanted {
            let lines = (wanted / self.out_width).max(1);
            let pieces = self.out_height.div_ceil(lines);
            let lines = self.out_height.div_ceil(pieces);
            let each = |image| {
                (0..self.out_height).step_by(lines).map(move |y| Tile {
                    first: image,
                    images: 1,
                    lines: y..(y + lines).min(self.out_height),
                })
            };
            return (0..batch).flat_map(each).collect();
        }
        let together = (wanted / n.max(1)).min(batch.div_ceil(least)).max(1);
        // Makes the tiles equally large.
        let together = batch.div_ceil(batch.div_ceil(together));
        let group = |first| Tile {
            first,
            images: together.min(batch - first),
            lines: 0..self.out_height,
        };
        (0..batch).step_by(together).map(group).collect()
    }
}

/// One row of the patch matrix: its output rows y0..y1 and columns x0..x1 come from the image,
/// starting at pixel `start`; the rest is zero.
struct Run {
    y0: usize,
    y1: usize,
    x0: usize,
    x1: usize,
    start: usize,
}

/// The output positions that one matrix product processes: rows of one image, or all positions of
/// several images.
#[derive(Clone, Debug)]
struct Tile {
    first: usize,
    images: usize,
    lines: Range<usize>,
}

/// Number of elements of a patch matrix that fits in a core's L2 cache.
const CACHED: usize = 1 << 17;

/// Minimum number of pieces that work is split into, where possible. It is enough for the threads
/// of a usual machine. It is fixed, so that sums do not depend on the number of threads.
const PIECES: usize = 16;

/// Splits `count` items into equal runs of at least `least` items, so that `others` times the
/// number of runs is about [`PIECES`] or more, if possible.
fn runs(count: usize, others: usize, least: usize) -> Vec<Range<usize>> {
    let wanted = PIECES.div_ceil(others.max(1));
    let length = count.div_ceil(wanted).max(least).max(1);
    // Equal lengths: otherwise the other threads would wait for the longest run.
    let length = count.div_ceil(count.div_ceil(length).max(1)).max(1);
    let starts = (0..count).step_by(length);
    starts.map(|s| s..(s + length).min(count)).collect()
}

/// Memory in which each thread writes a different part.
struct Shared<T>(*mut T);

// SAFETY: every `unsafe` block that uses the pointer states why no two threads access the same
// part at the same time, and `T: Send` allows other threads to write the elements.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, offset: usize) -> *mut T {
        // `wrapping_add` is safe for any offset; each use of the pointer states why it is in
        // bounds.
        self.0.wrapping_add(offset)
    }
}

/// A matrix view: the elements, and the steps between rows and between columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) values: &'a [T],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// Computes out (m × n, rows `pitch` apart) = keep·out + a (m × k) · b (k × n) on this thread.
/// With k = 0, `out` is left unchanged.
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
    // SAFETY: the assertion bounds every element of `out` that is accessed, and all elements of a
    // slice are initialised.
    unsafe { product_at(sizes, a, b, out.as_mut_ptr(), pitch, keep) };
}

/// Number of rows of a result that one thread computes at a time. It is fixed, so that sums do
/// not depend on the number of threads.
const SHARE: usize = 256;

/// From this number of multiplications on, a product is faster on several threads.
const LARGE: usize = 1 << 22;

/// As [`product`] with contiguous rows of `out`; runs on all threads if the product is large
/// enough.
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

/// Returns a (m × k) · b (k × n) as contiguous rows, computed on this thread. The memory is
/// written once, without zeros before.
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
        // SAFETY: the capacity is at least m·n. Without `keep` the product does not read the
        // elements, and as k > 0 it writes every one, so all m·n are initialised.
        unsafe {
            product_at(sizes, a, b, out.as_mut_ptr(), n, false);
            out.set_len(m * n);
        }
    }
    out
}

/// As [`product`], to a pointer.
///
/// # Safety
/// `out` must be valid for writes of m rows of n elements, `pitch` apart, that no other thread
/// accesses. With `keep` these elements must be initialised.
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
    // SAFETY: the assertions above bound every element that is read from `a` and `b`; the caller
    // guarantees that the elements of `out` are valid.
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

/// Copies `images` blocks of shape (channels, positions) into one matrix
/// (channels, images·positions).
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

/// The common geometry of both operations: `channels` channels at the output positions of
/// `patches` (the position side), and the image that the patches are taken from (the image side).
/// A convolution reads the image side and writes the position side; a transposed convolution does
/// the reverse.
#[derive(Clone, Debug)]
struct Geometry {
    batch: usize,
    channels: usize,
    patches: Patches,
}

/// Bias and activation, which are applied to a result while it is in the cache.
#[derive(Clone, Copy)]
struct Finish<'a, T> {
    bias: &'a [T],
    activation: Activation,
}

impl<T: Number> Finish<'_, T> {
    /// Adds the bias of a channel and applies the activation, in place.
    fn apply(&self, channel: usize, values: &mut [T]) {
        let bias = self.bias[channel];
        match self.activation {
            Activation::None => values.iter_mut().for_each(|v| *v += bias),
            Activation::Leaky(slope) => {
                let slope = T::from_f64(slope);
                // Selecting the factor first and then multiplying is the form that the compiler
                // vectorises.
                for v in values {
                    let mut x = *v;
                    x += bias;
                    *v = x * if x > T::default() { T::ONE } else { slope };
                }
            }
        }
    }
}

/// A matrix of a tile, as the right side of a product: either a part of `image`, or a copy in
/// scratch memory.
struct Columns<'a, T: Number> {
    scratch: Option<Vec<T>>,
    image: &'a [T],
    row: usize,
}

impl<T: Number> Columns<'_, T> {
    fn values(&self) -> &[T] {
        self.scratch.as_deref().unwrap_or(self.image)
    }

    fn free(self) {
        if let Some(scratch) = self.scratch {
            T::give_scratch(scratch);
        }
    }
}

impl Geometry {
    /// Returns the patch matrix (channels·window, columns of the tile) of some channels of the
    /// image side.
    fn columns<'a, T: Number>(
        &self,
        image: &'a [T],
        tile: &Tile,
        channels: &Range<usize>,
    ) -> Columns<'a, T> {
        let p = &self.patches;
        let width = tile.lines.len() * p.out_width;
        if tile.images == 1 && p.is_image() {
            let at = tile.first * p.image() + channels.start * p.area();
            return Columns {
                scratch: None,
                image: &image[at + tile.lines.start * p.out_width..],
                row: p.positions(),
            };
        }
        let pitch = tile.images * width;
        let mut scratch = T::take_scratch(channels.len() * p.window() * pitch);
        for i in 0..tile.images {
            let image = &image[(tile.first + i) * p.image()..][..p.image()];
            p.gather(
                image,
                (channels, &tile.lines),
                &mut scratch,
                pitch,
                i * width,
            );
        }
        Columns {
            scratch: Some(scratch),
            image: &[],
            row: pitch,
        }
    }

    /// Returns the position side of a tile as a matrix (channels, columns of the tile).
    fn rows<'a, T: Number>(&self, positions: &'a [T], tile: &Tile) -> Columns<'a, T> {
        let n = self.patches.positions();
        let at = tile.first * self.channels * n;
        if tile.images == 1 {
            return Columns {
                scratch: None,
                image: &positions[at + tile.lines.start * self.patches.out_width..],
                row: n,
            };
        }
        let mut scratch = T::take_scratch(self.channels * tile.images * n);
        let blocks = &positions[at..][..tile.images * self.channels * n];
        side_by_side(blocks, &mut scratch, self.channels, n, tile.images);
        Columns {
            scratch: Some(scratch),
            image: &[],
            row: tile.images * n,
        }
    }

    /// Computes position side = weight (channels × length) · patches(image side), then applies
    /// `finish`.
    fn project<T: Number>(&self, image: &[T], weight: &[T], finish: Option<Finish<T>>) -> Vec<T> {
        let (p, n) = (&self.patches, self.patches.positions());
        let length = p.length();
        let total = self.batch * self.channels * n;
        if length == 0 {
            return vec![T::default(); total];
        }
        let mut out: Vec<T> = Vec::with_capacity(total);
        let shared = Shared(out.as_mut_ptr());
        let tiles = p.tiles(self.batch);
        let shares = runs(self.channels, tiles.len(), 32);
        let work = tiles.len() * shares.len();
        (0..work).into_par_iter().for_each(|i| {
            let (tile, share) = (&tiles[i / shares.len()], &shares[i % shares.len()]);
            let columns = self.columns(image, tile, &(0..p.channels));
            let width = tile.lines.len() * p.out_width;
            let pitch = tile.images * width;
            let left = Matrix {
                values: &weight[share.start * length..],
                row: length,
                column: 1,
            };
            let right = Matrix {
                values: columns.values(),
                row: columns.row,
                column: 1,
            };
            let sizes = (share.len(), pitch, length);
            let place = |image: usize, channel: usize| {
                let line = tile.lines.start * p.out_width;
                shared.at(((tile.first + image) * self.channels + channel) * n + line)
            };
            if tile.images == 1 {
                // SAFETY: `out` has capacity for this tile's columns in the channels of this
                // share, whose rows are n apart. No other task has the same tile and share, so no
                // other thread accesses them. The product writes every element (length > 0)
                // before `finish` reads it.
                unsafe {
                    product_at(sizes, left, right, place(0, share.start), n, false);
                    if let Some(finish) = finish {
                        for c in share.clone() {
                            let plane = std::slice::from_raw_parts_mut(place(0, c), width);
                            finish.apply(c, plane);
                        }
                    }
                }
            } else {
                let mut wide = T::take_scratch(share.len() * pitch);
                product(sizes, left, right, &mut wide, pitch, false);
                for (c, row) in share.clone().zip(wide.chunks_mut(pitch)) {
                    if let Some(finish) = finish {
                        finish.apply(c, row);
                    }
                    for (image, plane) in row.chunks(width).enumerate() {
                        // SAFETY: as above. A tile of several images contains whole images, so a
                        // plane has n elements; `wide` is separate memory.
                        unsafe {
                            std::ptr::copy_nonoverlapping(plane.as_ptr(), place(image, c), width);
                        }
                    }
                }
                T::give_scratch(wide);
            }
            columns.free();
        });
        // SAFETY: the tiles together cover all positions of all images, and the shares all
        // channels, so every element was written.
        unsafe { out.set_len(total) };
        out
    }

    /// Computes the image side as the adjoint of [`Geometry::project`] with respect to the image,
    /// then applies `finish`.
    fn spread<T: Number>(
        &self,
        positions: &[T],
        weight: &[T],
        finish: Option<Finish<T>>,
    ) -> Vec<T> {
        let p = &self.patches;
        let (kh, kw) = p.kernel;
        if p.stride == 1 && p.padding.0 < kh && p.padding.1 < kw && p.length() > 0 {
            // With stride 1 the adjoint is a convolution with the weight rotated by 180°, and no
            // partial results have to be added.
            let mut turned = vec![T::default(); weight.len()];
            let window = p.window();
            for (co, from) in weight.chunks(p.length()).enumerate() {
                for (ci, from) in from.chunks(window).enumerate() {
                    let to = &mut turned[(ci * self.channels + co) * window..][..window];
                    to.iter_mut()
                        .zip(from.iter().rev())
                        .for_each(|(t, f)| *t = *f);
                }
            }
            let other = Geometry {
                batch: self.batch,
                channels: p.channels,
                patches: Patches {
                    channels: self.channels,
                    height: p.out_height,
                    width: p.out_width,
                    kernel: p.kernel,
                    stride: 1,
                    padding: (kh - 1 - p.padding.0, kw - 1 - p.padding.1),
                    out_height: p.height,
                    out_width: p.width,
                },
            };
            return other.project(positions, &turned, finish);
        }
        let (length, window) = (p.length(), p.window());
        let mut out = vec![T::default(); self.batch * p.image()];
        // Tiles of the same images add to the same pixels, so one thread processes them.
        let tiles = p.tiles(self.batch);
        let groups: Vec<&[Tile]> = tiles.chunk_by(|a, b| a.first == b.first).collect();
        let shares = runs(p.channels, groups.len(), 64usize.div_ceil(window.max(1)));
        let shared = Shared(out.as_mut_ptr());
        let work = groups.len() * shares.len();
        (0..work).into_par_iter().for_each(|i| {
            let (group, share) = (groups[i / shares.len()], &shares[i % shares.len()]);
            let (first, images) = (group[0].first, group[0].images);
            let area = share.len() * p.area();
            let place = |image: usize| {
                let at = (first + image) * p.image() + share.start * p.area();
                // SAFETY: the range is inside `out`, which is initialised. No other task has
                // these channels of these images, and the slices of this task are used one after
                // the other.
                unsafe { std::slice::from_raw_parts_mut(shared.at(at), area) }
            };
            for tile in group {
                let rows = self.rows(positions, tile);
                let width = tile.lines.len() * p.out_width;
                let pitch = images * width;
                let left = Matrix {
                    values: &weight[share.start * window..],
                    row: 1,
                    column: length,
                };
                let right = Matrix {
                    values: rows.values(),
                    row: rows.row,
                    column: 1,
                };
                let mut patches = T::take_scratch(share.len() * window * pitch);
                let sizes = (share.len() * window, pitch, self.channels);
                product(sizes, left, right, &mut patches, pitch, false);
                for image in 0..images {
                    let what = (share.len(), &tile.lines);
                    p.scatter(&patches, what, place(image), pitch, image * width);
                }
                T::give_scratch(patches);
                rows.free();
            }
            if let Some(finish) = finish {
                for image in 0..images {
                    for (c, plane) in share.clone().zip(place(image).chunks_mut(p.area())) {
                        finish.apply(c, plane);
                    }
                }
            }
        });
        out
    }

    /// Computes the gradient of the weight (channels × length):
    /// Σ over images of positions · patchesᵀ.
    fn correlate<T: Number>(&self, image: &[T], positions: &[T]) -> Vec<T> {
        let p = &self.patches;
        let (length, window) = (p.length(), p.window());
        let size = self.channels * length;
        if size == 0 {
            return Vec::new();
        }
        let blocks = runs(p.channels, 1, 128usize.div_ceil(window));
        // Each product uses the patches of one block of channels only, so that a tile can contain
        // many images. With few images per tile, each product would read and write the whole
        // gradient again.
        let longest = blocks.first().map_or(0, |b| b.len() * window);
        let tiles = p.tiles_of(self.batch, longest, PIECES.div_ceil(blocks.len()));
        // With too few blocks, partial sums are computed in parallel. Their number depends only
        // on the shapes, so the order of the sum is fixed.
        let lanes = PIECES.div_ceil(blocks.len()).min(tiles.len()).max(1);
        let lanes: Vec<&[Tile]> = tiles.chunks(tiles.len().div_ceil(lanes)).collect();
        let mut partial = vec![T::default(); lanes.len() * size];
        let shared = Shared(partial.as_mut_ptr());
        let work = lanes.len() * blocks.len();
        (0..work).into_par_iter().for_each(|i| {
            let (lane, block) = (i / blocks.len(), &blocks[i % blocks.len()]);
            for (nth, tile) in lanes[lane].iter().enumerate() {
                let columns = self.columns(image, tile, block);
                let rows = self.rows(positions, tile);
                let left = Matrix {
                    values: rows.values(),
                    row: rows.row,
                    column: 1,
                };
                let right = Matrix {
                    values: columns.values(),
                    row: 1,
                    column: columns.row,
                };
                let pitch = tile.images * tile.lines.len() * p.out_width;
                let sizes = (self.channels, block.len() * window, pitch);
                // SAFETY: the range is inside `partial`, which is initialised. No other task has
                // this lane and these columns.
                unsafe {
                    let out = shared.at(lane * size + block.start * window);
                    product_at(sizes, left, right, out, length, nth > 0);
                }
                rows.free();
                columns.free();
            }
        });
        if lanes.len() > 1 {
            let (total, others) = partial.split_at_mut(size);
            for part in others.chunks(size) {
                total.iter_mut().zip(part).for_each(|(t, p)| *t += *p);
            }
            partial.truncate(size);
        }
        partial
    }
}

/// Computes the gradient before the activation from the sign of the result, which is also the
/// sign of the argument. `None` if there is no activation.
fn unfinished<T: Number>(result: &[T], gradient: &[T], activation: Activation) -> Option<Vec<T>> {
    let Activation::Leaky(slope) = activation else {
        return None;
    };
    let slope = T::from_f64(slope);
    Some(map2(result, gradient, move |r, g| {
        g * if r > T::default() { T::ONE } else { slope }
    }))
}

/// Computes the gradient of the bias: the sum of each channel over images and positions.
fn bias_gradient<T: Number>(gradient: &[T], channels: usize, positions: usize) -> Vec<T> {
    let of = |channel: usize| {
        let mut total = T::default();
        for plane in gradient.chunks(positions).skip(channel).step_by(channels) {
            // Eight parallel partial sums: they vectorise and are more accurate than one long
            // sum.
            let mut sums = [T::default(); 8];
            let mut blocks = plane.chunks_exact(8);
            for block in &mut blocks {
                sums.iter_mut().zip(block).for_each(|(s, v)| *s += *v);
            }
            sums.iter_mut()
                .zip(blocks.remainder())
                .for_each(|(s, v)| *s += *v);
            sums.into_iter().for_each(|s| total += s);
        }
        total
    };
    (0..channels).into_par_iter().map(of).collect()
}

#[derive(Clone, Copy)]
struct Convolution {
    config: ConvConfig,
    transposed: bool,
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
            return Err(Error::invalid(format!(
                "{name}: expected an image (batch, channels, height, width), a weight of four and a bias of one dimension, found {x:?}, {w:?}, {b:?}"
            )));
        };
        if batch == 0 {
            return Err(Error::invalid(format!(
                "{name}: expected at least one image, found none: {x:?}"
            )));
        }
        let ConvConfig {
            stride, padding, ..
        } = self.config;
        let (expected_in, c_out) = if self.transposed { (w0, w1) } else { (w1, w0) };
        if c_in != expected_in || c_bias != c_out || stride == 0 || kh == 0 || kw == 0 {
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

fn slice<'a, T: WithDType>(
    storage: &'a candle_core::Storage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match storage {
        candle_core::Storage::Cpu(s) => numbers(s, layout),
        _ => candle_core::bail!("expected a tensor on the CPU"),
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
    // candle supports one padding for both directions. The difference is padded before a
    // convolution, or cut off after a transposed one.
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

/// Applies a convolution to images (batch, in, h, w) with a weight (out, in, kh, kw) and a bias
/// (out,), as PyTorch's `conv2d` (cross-correlation), then the activation of `config`. f32 or
/// f64.
///
/// # Errors
/// [`Error::Invalid`] if the shapes do not match.
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
/// [`Error::Invalid`] if the shapes do not match.
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

/// A convolution or transposed convolution layer with the parameters `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Var,
    bias: Var,
    config: ConvConfig,
    transposed: bool,
}

impl Conv2d {
    /// Creates a convolution with a square kernel. The weight starts with values from `init`, the
    /// bias with zeros.
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

    /// Creates a transposed convolution with a square kernel. The weight starts with normal
    /// values of standard deviation √(2/fan_in), fan_in = inputs·(kernel/stride)², the bias with
    /// zeros.
    pub fn transposed(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        // Each output pixel is a sum of inputs·(kernel/stride)² products.
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

    /// Returns the weight as a tensor of the graph.
    pub fn weight(&self) -> Tensor {
        self.weight.as_tensor().clone()
    }

    /// Applies the layer: (batch, in, h, w) to (batch, out, h', w').
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let op = Convolution {
            config: self.config,
            transposed: self.transposed,
        };
        apply(op, x, self.weight.as_tensor(), self.bias.as_tensor())
    }
}

/// A linear layer with the parameters `weight` (out, in) and `bias` (out,).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Var,
    bias: Var,
}

impl Linear {
    /// Creates a linear layer. The weight starts with values from `init`, the bias with zeros.
    pub fn new(inputs: usize, outputs: usize, init: Init, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs), "weight", init)?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
        })
    }

    /// Applies the layer: (batch, in) to (batch, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}
