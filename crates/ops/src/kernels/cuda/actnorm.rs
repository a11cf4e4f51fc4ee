//! ActNorm and permutations on the GPU. A state (rows, code + 1) is the code with the
//! log-determinant as its last column.

use super::{Address, Buffer, Gpu};
use candle_core::Result;

impl Gpu {
    /// ActNorm on a state (rows, n + 1).
    pub(crate) fn actnorm(
        &self,
        [state, loc, scale]: [Address; 3],
        (rows, n): (usize, usize),
    ) -> Result<Buffer> {
        let out = self.empty(rows * (n + 1))?;
        let arguments = [
            state.into(),
            loc.into(),
            scale.into(),
            (&out).into(),
            n.into(),
            (n + 1).into(),
            rows.into(),
        ];
        // SAFETY: both states have rows·(n + 1) elements, and there is a block per row.
        unsafe { self.launch("actnorm", (rows as u32, 1), (128, 1), &arguments)? };
        Ok(out)
    }

    /// The inverse of ActNorm on a code (rows, n).
    pub(crate) fn actnorm_inverse(
        &self,
        [v, loc, scale]: [Address; 3],
        (rows, n): (usize, usize),
    ) -> Result<Buffer> {
        let out = self.empty(rows * n)?;
        let arguments = [
            v.into(),
            loc.into(),
            scale.into(),
            (&out).into(),
            n.into(),
            rows.into(),
        ];
        // SAFETY: v and the result have rows·n elements.
        unsafe { self.map("actnorm_inverse", (rows * n, 1), &arguments)? };
        Ok(out)
    }

    /// The gradients of the state, of loc and of scale.
    pub(crate) fn actnorm_backward(
        &self,
        [state, loc, scale, gradient]: [Address; 4],
        (rows, n): (usize, usize),
    ) -> Result<[Buffer; 3]> {
        let to_state = self.empty(rows * (n + 1))?;
        let (to_loc, to_scale) = (self.empty(n)?, self.empty(n)?);
        let arguments = [
            state.into(),
            loc.into(),
            scale.into(),
            gradient.into(),
            (&to_state).into(),
            (&to_loc).into(),
            (&to_scale).into(),
            n.into(),
            rows.into(),
        ];
        let grid = ((n + 1).div_ceil(32) as u32, 1);
        // SAFETY: the states have rows·(n + 1) elements, and the blocks cover n + 1 columns.
        unsafe { self.launch("actnorm_backward", grid, (32, 8), &arguments)? };
        Ok([to_state, to_loc, to_scale])
    }

    /// Selects columns: out[r][j] = x[r][order[j]] for j < n, in rows of `pitch`; later columns
    /// are copied.
    pub(crate) fn permute(
        &self,
        x: Address,
        order: Address,
        (rows, n, pitch): (usize, usize, usize),
    ) -> Result<Buffer> {
        let out = self.empty(rows * pitch)?;
        let arguments = [
            x.into(),
            order.into(),
            (&out).into(),
            n.into(),
            pitch.into(),
            rows.into(),
        ];
        // SAFETY: x and the result have rows·pitch elements; the caller's order has n indices
        // below n.
        unsafe { self.map("permute", (rows * pitch, 1), &arguments)? };
        Ok(out)
    }
}
