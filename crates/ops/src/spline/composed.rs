//! Splines as a composition of candle's operations, for devices without a kernel.

use super::{MIN_SIZE, Spline, numbers_per_element};
use crate::Result;
use candle_core::Tensor;

impl Spline {
    /// Returns the ends of all bins in x and in y, and the slopes at these ends, each as a tensor
    /// (batch, n, bins + 1).
    fn composed_shape(&self, x: &Tensor, raw: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, n) = x.dims2()?;
        let k = self.bins;
        let raw = raw.reshape((batch, n, numbers_per_element(k)))?;
        let ends = |from: usize| -> Result<Tensor> {
            let r = raw.narrow(2, from, k)?.contiguous()?;
            let r = r.broadcast_sub(&r.max_keepdim(2)?.detach())?.exp()?;
            let share = r.broadcast_div(&r.sum_keepdim(2)?)?;
            let share = share.affine(1.0 - MIN_SIZE * k as f64, MIN_SIZE)?;
            let inner = share.cumsum(2)?.narrow(2, 0, k - 1)?;
            let inner = inner.affine(2.0 * self.bound, -self.bound)?;
            let end = (Tensor::ones((batch, n, 1), x.dtype(), x.device())? * self.bound)?;
            Ok(Tensor::cat(&[&end.neg()?, &inner, &end], 2)?)
        };
        let r = raw.narrow(2, 2 * k, k - 1)?.affine(1.0, Self::offset())?;
        // Softplus without overflow: max(r, 0) + ln(1 + exp(−|r|)).
        let softplus = (r.relu()? + (r.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let one = Tensor::ones((batch, n, 1), x.dtype(), x.device())?;
        let slopes = Tensor::cat(&[&one, &(softplus + MIN_SIZE)?, &one], 2)?;
        Ok([ends(0)?, ends(k)?, slopes])
    }

    /// Returns the bin of each element as left, width, bottom, height and both slopes, each with
    /// the shape of `x`; and a mask: 1 inside (−B, B), 0 where the map is the identity.
    fn composed_bin(&self, x: &Tensor, raw: &Tensor, by_y: bool) -> Result<([Tensor; 6], Tensor)> {
        let [xs, ys, slopes] = self.composed_shape(x, raw)?;
        let k = self.bins;
        let ends = if by_y { &ys } else { &xs };
        let inside = x.detach().abs()?.lt(self.bound)?.to_dtype(x.dtype())?;
        let inner = ends.detach().narrow(2, 1, k - 1)?;
        let past = x.detach().unsqueeze(2)?.broadcast_ge(&inner)?;
        let past = past.to_dtype(x.dtype())?;
        let one = past.narrow(2, 0, 1)?.ones_like()?;
        let zero = one.zeros_like()?;
        // 1 in the bin whose left end is at or below x and whose right end is above x; the outer
        // bins extend to infinity.
        let here = (Tensor::cat(&[&one, &past], 2)? - Tensor::cat(&[&past, &zero], 2)?)?;
        let pick = |t: &Tensor, from: usize| -> Result<Tensor> {
            Ok((t.narrow(2, from, k)? * &here)?.sum(2)?)
        };
        let (left, right) = (pick(&xs, 0)?, pick(&xs, 1)?);
        let (bottom, top) = (pick(&ys, 0)?, pick(&ys, 1)?);
        let bin = [
            left.clone(),
            (right - left)?,
            bottom.clone(),
            (top - bottom)?,
            pick(&slopes, 0)?,
            pick(&slopes, 1)?,
        ];
        Ok((bin, inside))
    }

    pub(super) fn composed_forward(&self, x: &Tensor, raw: &Tensor) -> Result<(Tensor, Tensor)> {
        let ([left, width, bottom, height, d0, d1], inside) = self.composed_bin(x, raw, false)?;
        // Outside the bounds the position in the bin is set to 0: the result is multiplied by 0
        // below, and must be finite for that.
        let at = (((x - left)? / &width)? * &inside)?;
        let rest = at.affine(-1.0, 1.0)?;
        let slope = (&height / width)?;
        let (cross, square) = ((&at * &rest)?, at.sqr()?);
        let above = ((&slope * &square)? + (&d0 * &cross)?)?;
        let bend = ((&d0 + &d1)? - (&slope * 2.0)?)?;
        let below = (&slope + (bend * &cross)?)?;
        let y = (bottom + ((height * above)? / &below)?)?;
        let turn = (((d1 * square)? + ((&slope * 2.0)? * cross)?)? + (d0 * rest.sqr()?)?)?;
        let logdet = (((slope.log()? - below.log()?)? * 2.0)? + turn.log()?)?;
        let outside = inside.affine(-1.0, 1.0)?;
        Ok(((((y * &inside)?) + (x * outside)?)?, (logdet * inside)?))
    }

    pub(super) fn composed_inverse(&self, y: &Tensor, raw: &Tensor) -> Result<Tensor> {
        let ([left, width, bottom, height, d0, d1], inside) = self.composed_bin(y, raw, true)?;
        let slope = (&height / &width)?;
        let up = ((y - bottom)? * &inside)?;
        let bend = ((&d0 + d1)? - (&slope * 2.0)?)?;
        let shift = (&up * bend)?;
        let a = ((&height * (&slope - &d0)?)? + &shift)?;
        let b = ((height * d0)? - shift)?;
        let c = (slope * up)?.neg()?;
        let root = (b.sqr()? - ((a * &c)? * 4.0)?)?.relu()?.sqrt()?;
        let at = ((c * 2.0)? / (b.neg()? - root)?)?;
        let x = (left + (width * at)?)?;
        let outside = inside.affine(-1.0, 1.0)?;
        Ok(((x * &inside)? + (y * outside)?)?)
    }
}
