//! Convolutions as matrix products over patches: forward, backward, and the transposed ones.

use super::Number;
use super::elementwise::map2;
use super::patches::{PIECES, Patches, Tile, runs};
use super::product::{Matrix, product, product_at, side_by_side};
use crate::Activation;
use rayon::prelude::*;
use std::ops::Range;

/// Memory in which each thread writes a different part.
pub(crate) struct Shared<T>(*mut T);

// SAFETY: every `unsafe` block that uses the pointer states why no two threads access the same
// part at the same time, and `T: Send` allows other threads to write the elements.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn at(&self, offset: usize) -> *mut T {
        // `wrapping_add` is safe for any offset; each use of the pointer states why it is in
        // bounds.
        self.0.wrapping_add(offset)
    }
}

/// The common geometry of both operations: `channels` channels at the output positions of
/// `patches` (the position side), and the image that the patches are taken from (the image side).
/// A convolution reads the image side and writes the position side; a transposed convolution does
/// the reverse.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) patches: Patches,
}

/// Bias and activation, which are applied to a result while it is in the cache.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a, T> {
    pub(crate) bias: &'a [T],
    pub(crate) activation: Activation,
}

impl<T: Number> Finish<'_, T> {
    /// Adds the bias of a channel and applies the activation, in place.
    pub(crate) fn apply(&self, channel: usize, values: &mut [T]) {
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
pub(crate) struct Columns<'a, T: Number> {
    pub(crate) scratch: Option<Vec<T>>,
    pub(crate) image: &'a [T],
    pub(crate) row: usize,
}

impl<T: Number> Columns<'_, T> {
    pub(crate) fn values(&self) -> &[T] {
        self.scratch.as_deref().unwrap_or(self.image)
    }

    pub(crate) fn free(self) {
        if let Some(scratch) = self.scratch {
            T::give_scratch(scratch);
        }
    }
}

impl Geometry {
    /// Returns the patch matrix (channels·window, columns of the tile) of some channels of the
    /// image side.
    pub(crate) fn columns<'a, T: Number>(
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
    pub(crate) fn rows<'a, T: Number>(&self, positions: &'a [T], tile: &Tile) -> Columns<'a, T> {
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
    pub(crate) fn project<T: Number>(
        &self,
        image: &[T],
        weight: &[T],
        finish: Option<Finish<T>>,
    ) -> Vec<T> {
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
    pub(crate) fn spread<T: Number>(
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
    pub(crate) fn correlate<T: Number>(&self, image: &[T], positions: &[T]) -> Vec<T> {
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
pub(crate) fn unfinished<T: Number>(
    result: &[T],
    gradient: &[T],
    activation: Activation,
) -> Option<Vec<T>> {
    let Activation::Leaky(slope) = activation else {
        return None;
    };
    let slope = T::from_f64(slope);
    Some(map2(result, gradient, move |r, g| {
        g * if r > T::default() { T::ONE } else { slope }
    }))
}

/// Computes the gradient of the bias: the sum of each channel over images and positions.
pub(crate) fn bias_gradient<T: Number>(
    gradient: &[T],
    channels: usize,
    positions: usize,
) -> Vec<T> {
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
