//! Blocks of rows in feature-major order, and their conversion from and to rows.

use super::Plan;
use crate::kernels::Real;

/// Rows of a batch in feature-major order: feature f of row r is at f·rows + r.
pub(super) struct Block<T> {
    pub(super) values: Vec<T>,
    pub(super) rows: usize,
}

impl<T: Real> Block<T> {
    /// Creates a block from rows of `width` elements. The features start at index `from` and wrap
    /// around.
    pub(super) fn gather(source: &[T], width: usize, from: usize) -> Self {
        let rows = source.len().checked_div(width).unwrap_or(0);
        let mut values = Vec::with_capacity(source.len());
        for f in (from..width).chain(0..from) {
            values.extend(source.iter().skip(f).step_by(width));
        }
        Self { values, rows }
    }

    /// Writes the block back as rows, which are `pitch` apart in `target`: the reverse of
    /// [`Block::gather`].
    pub(super) fn scatter(&self, target: &mut [T], width: usize, from: usize, pitch: usize) {
        let order = (from..width).chain(0..from);
        for (f, line) in order.zip(self.values.chunks_exact(self.rows)) {
            let places = target.iter_mut().skip(f).step_by(pitch);
            places.zip(line).for_each(|(t, &x)| *t = x);
        }
    }

    pub(super) fn features(&self, range: std::ops::Range<usize>) -> &[T] {
        &self.values[range.start * self.rows..range.end * self.rows]
    }

    pub(super) fn features_mut(&mut self, range: std::ops::Range<usize>) -> &mut [T] {
        &mut self.values[range.start * self.rows..range.end * self.rows]
    }
}

/// Splits the rows of a gradient (that of v, then that of the log-determinant as the last element
/// of each row) into a block of (a, b), the gradients of the log-determinants, and the number of
/// rows.
pub(super) fn gradient_block<T: Real>(
    rows: &[T],
    code: usize,
    from: usize,
) -> (Block<T>, Vec<T>, usize) {
    let width = code + 1;
    let count = rows.len() / width;
    let mut values = Vec::with_capacity(count * code);
    for f in (from..code).chain(0..from) {
        values.extend(rows.iter().skip(f).step_by(width));
    }
    let to_logdet = rows.iter().skip(code).step_by(width).copied().collect();
    let block = Block {
        values,
        rows: count,
    };
    (block, to_logdet, count)
}

/// Converts blocks of gradients back to rows: those of x, whose features start at index `from`,
/// and those of the condition. The third items of the blocks are returned unchanged.
pub(super) fn gathered<T: Real, B>(
    plan: &Plan,
    blocks: Vec<(Block<T>, Vec<T>, B)>,
    from: usize,
) -> (Vec<T>, Vec<T>, Vec<B>) {
    let batch: usize = blocks.iter().map(|b| b.0.rows).sum();
    let mut to_x = vec![T::zero(); batch * plan.code];
    let mut to_condition = vec![T::zero(); batch * plan.condition];
    let mut rest = Vec::with_capacity(blocks.len());
    let mut start = 0;
    for (x, c, b) in blocks {
        let rows = x.rows;
        x.scatter(&mut to_x[start * plan.code..], plan.code, from, plan.code);
        let c = Block { values: c, rows };
        let place = &mut to_condition[start * plan.condition..];
        c.scatter(place, plan.condition, 0, plan.condition.max(1));
        start += rows;
        rest.push(b);
    }
    (to_x, to_condition, rest)
}
