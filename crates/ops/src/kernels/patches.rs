//! The patches of an image (im2col) and their adjoint, and how they are split into tiles for the cache
//! and into pieces for threads.

use super::Number;
use std::ops::Range;

/// The patches of an image: one per output position, each of `channels·window` elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: usize,
    pub(crate) padding: (usize, usize),
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
}

impl Patches {
    pub(crate) fn positions(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Number of pixels in a window.
    pub(crate) fn window(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    pub(crate) fn length(&self) -> usize {
        self.channels * self.window()
    }

    /// Number of pixels in a channel.
    pub(crate) fn area(&self) -> usize {
        self.height * self.width
    }

    pub(crate) fn image(&self) -> usize {
        self.channels * self.area()
    }

    /// Whether the patch matrix equals the image itself, so that no copy is needed.
    pub(crate) fn is_image(&self) -> bool {
        self.kernel == (1, 1) && self.stride == 1 && self.padding == (0, 0)
    }

    /// Returns the range of output rows (or columns) for which pixel `k` of the patch lies inside
    /// an image side of `size` pixels.
    pub(crate) fn inside(
        &self,
        k: usize,
        size: usize,
        padding: usize,
        outputs: usize,
    ) -> (usize, usize) {
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
    pub(crate) fn each_row(
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
    pub(crate) fn gather<T: Number>(
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
    pub(crate) fn scatter<T: Number>(
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
    pub(crate) fn tiles(&self, batch: usize) -> Vec<Tile> {
        self.tiles_of(batch, self.length(), 4)
    }

    /// As [`Patches::tiles`], for patch matrices of `length` rows; aims for at least `min_tiles`
    /// tiles if the batch has that many images.
    pub(crate) fn tiles_of(&self, batch: usize, length: usize, min_tiles: usize) -> Vec<Tile> {
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
        let together = (wanted / n.max(1)).min(batch.div_ceil(min_tiles)).max(1);
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
pub(crate) struct Run {
    pub(crate) y0: usize,
    pub(crate) y1: usize,
    pub(crate) x0: usize,
    pub(crate) x1: usize,
    pub(crate) start: usize,
}

/// The output positions that one matrix product processes: rows of one image, or all positions of
/// several images.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    pub(crate) first: usize,
    pub(crate) images: usize,
    pub(crate) lines: Range<usize>,
}

/// Number of elements of a patch matrix that fits in a core's L2 cache.
pub(crate) const CACHED: usize = 1 << 17;

/// Minimum number of pieces that work is split into, where possible. It is enough for the threads
/// of a usual machine. It is fixed, so that sums do not depend on the number of threads.
pub(crate) const PIECES: usize = 16;

/// Splits `count` items into equal runs of at least `min_length` items, so that `others` times the
/// number of runs is about [`PIECES`] or more, if possible.
pub(crate) fn runs(count: usize, others: usize, min_length: usize) -> Vec<Range<usize>> {
    let wanted = PIECES.div_ceil(others.max(1));
    let length = count.div_ceil(wanted).max(min_length).max(1);
    // Equal lengths: otherwise the other threads would wait for the longest run.
    let length = count.div_ceil(count.div_ceil(length).max(1)).max(1);
    let starts = (0..count).step_by(length);
    starts.map(|s| s..(s + length).min(count)).collect()
}
