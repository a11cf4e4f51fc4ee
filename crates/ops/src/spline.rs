//! Monotone rational-quadratic splines, one per element of a tensor, with gradients.
//!
//! Gregory and Delbourgo 1982, as used in flows by Durkan et al. 2019
//! ([arXiv 1906.04032](https://arxiv.org/abs/1906.04032)):
//! K bins on [−B, B] whose widths and heights are softmaxes, and K − 1 slopes between them. At
//! the ends the slope is 1, and outside [−B, B] the map is the identity. On the CPU a kernel
//! processes each element in one pass. It computes in f64, because the inverse solves a quadratic
//! equation. Other devices use a composition of candle's operations.

use super::dense::{Real, has_kernel, numbers};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Minimum width and height of a bin as a fraction of the total, and minimum slope between two
/// bins.
const MIN_SIZE: f64 = 1e-3;

/// Maximum number of bins, more than is needed in practice. The arrays of one element have this
/// length and are on the stack.
const MAX_BINS: usize = 64;

/// Returns the number of raw parameters of one element's spline: widths, heights and inner slopes
/// of the bins.
pub fn numbers_per_element(bins: usize) -> usize {
    3 * bins - 1
}

/// The settings of the splines: the number of bins and the bound B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spline {
    bins: usize,
    bound: f64,
}

/// A value and its derivatives with respect to x and to the six numbers of a bin: left, width,
/// bottom, height, and the slopes at its ends.
#[derive(Clone, Copy)]
struct Dual {
    value: f64,
    by: [f64; 7],
}

impl Dual {
    fn variable(value: f64, place: usize) -> Self {
        let mut by = [0.0; 7];
        by[place] = 1.0;
        Self { value, by }
    }

    fn chain(self, value: f64, slope: f64) -> Self {
        Self {
            value,
            by: self.by.map(|d| d * slope),
        }
    }

    fn with(self, other: Self, value: f64, slope: f64, other_slope: f64) -> Self {
        let mut by = [0.0; 7];
        for (out, (a, b)) in by.iter_mut().zip(self.by.iter().zip(&other.by)) {
            *out = a * slope + b * other_slope;
        }
        Self { value, by }
    }

    fn plus(self, o: Self) -> Self {
        self.with(o, self.value + o.value, 1.0, 1.0)
    }

    fn minus(self, o: Self) -> Self {
        self.with(o, self.value - o.value, 1.0, -1.0)
    }

    fn times(self, o: Self) -> Self {
        self.with(o, self.value * o.value, o.value, self.value)
    }

    fn over(self, o: Self) -> Self {
        let ratio = self.value / o.value;
        self.with(o, ratio, o.value.recip(), -ratio / o.value)
    }

    fn ln(self) -> Self {
        self.chain(self.value.ln(), self.value.recip())
    }

    fn scaled(self, by: f64) -> Self {
        self.chain(self.value * by, by)
    }
}

/// One bin: left, width, bottom, height, slope at its left end and slope at its right end.
type Bin = [f64; 6];

/// Returns y and ln(dy/dx) of a bin at x, with their derivatives.
fn curve(x: f64, bin: &Bin) -> (Dual, Dual) {
    let [left, width, bottom, height, d0, d1] =
        [0, 1, 2, 3, 4, 5].map(|i| Dual::variable(bin[i], i + 1));
    let one = Dual {
        value: 1.0,
        by: [0.0; 7],
    };
    let at = Dual::variable(x, 0).minus(left).over(width);
    let rest = one.minus(at);
    let slope = height.over(width);
    let cross = at.times(rest);
    let square = at.times(at);
    let above = slope.times(square).plus(d0.times(cross));
    let below = slope.plus(d0.plus(d1).minus(slope.scaled(2.0)).times(cross));
    let y = bottom.plus(height.times(above).over(below));
    let turn = d1
        .times(square)
        .plus(slope.scaled(2.0).times(cross))
        .plus(d0.times(rest.times(rest)));
    // The logarithm of slope²·turn/below².
    let logdet = slope.ln().minus(below.ln()).scaled(2.0).plus(turn.ln());
    (y, logdet)
}

/// Returns the x in a bin whose value is y (equations 6 to 8 of the paper's appendix).
fn solved(y: f64, bin: &Bin) -> f64 {
    let [left, width, bottom, height, d0, d1] = *bin;
    let slope = height / width;
    let up = y - bottom;
    let bend = d0 + d1 - 2.0 * slope;
    let a = height * (slope - d0) + up * bend;
    let b = height * d0 - up * bend;
    let c = -slope * up;
    let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
    left + width * (2.0 * c / (-b - root)).clamp(0.0, 1.0)
}

/// The spline of one element, computed from its raw parameters.
struct Shape1 {
    bins: usize,
    /// The softmaxes of the raw widths and heights.
    widths: [f64; MAX_BINS],
    heights: [f64; MAX_BINS],
    /// The derivative of each inner slope with respect to its raw parameter.
    bends: [f64; MAX_BINS],
    slopes: [f64; MAX_BINS + 1],
    /// The ends of the bins, in x and in y.
    xs: [f64; MAX_BINS + 1],
    ys: [f64; MAX_BINS + 1],
}

impl Spline {
    /// Creates splines with `bins` bins on [−bound, bound].
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `bins` is from 2 to 64 and `bound` is finite and above 0.
    pub fn new(bins: usize, bound: f64) -> Result<Self> {
        let fits = (2..=MAX_BINS).contains(&bins) && bound.is_finite() && bound > 0.0;
        if !fits {
            return Err(Error::invalid(format!(
                "expected a spline with 2 to {MAX_BINS} bins and a finite bound above 0, found {bins} bins and bound {bound}"
            )));
        }
        Ok(Self { bins, bound })
    }

    /// Computes softmaxes into `out`, and the ends of the bins, whose size has a minimum, into
    /// `ends`.
    fn shares(&self, raw: impl Iterator<Item = f64> + Clone, out: &mut [f64], ends: &mut [f64]) {
        let max = raw.clone().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for (o, r) in out.iter_mut().zip(raw) {
            *o = (r - max).exp();
            sum += *o;
        }
        let (bins, bound) = (self.bins, self.bound);
        ends[0] = -bound;
        for k in 0..bins {
            out[k] /= sum;
            ends[k + 1] = ends[k] + 2.0 * bound * self.share(out[k]);
        }
        ends[bins] = bound;
    }

    fn share(&self, softmax: f64) -> f64 {
        MIN_SIZE + (1.0 - MIN_SIZE * self.bins as f64) * softmax
    }

    /// Returns the offset that is added to a raw slope: with it the raw value 0 gives slope 1.
    fn offset() -> f64 {
        ((1.0 - MIN_SIZE).exp() - 1.0).ln()
    }

    fn shape<T: Real>(&self, raw: &[T]) -> Shape1 {
        let k = self.bins;
        let mut shape = Shape1 {
            bins: k,
            widths: [0.0; MAX_BINS],
            heights: [0.0; MAX_BINS],
            bends: [0.0; MAX_BINS],
            slopes: [1.0; MAX_BINS + 1],
            xs: [0.0; MAX_BINS + 1],
            ys: [0.0; MAX_BINS + 1],
        };
        let numbers = |r: std::ops::Range<usize>| raw[r].iter().map(|x| x.to_f64());
        self.shares(numbers(0..k), &mut shape.widths[..k], &mut shape.xs);
        self.shares(numbers(k..2 * k), &mut shape.heights[..k], &mut shape.ys);
        for (i, r) in numbers(2 * k..3 * k - 1).enumerate() {
            let r = r + Self::offset();
            let softplus = if r > 30.0 { r } else { r.exp().ln_1p() };
            shape.slopes[i + 1] = MIN_SIZE + softplus;
            shape.bends[i + 1] = (1.0 + (-r).exp()).recip();
        }
        shape
    }

    /// Returns y and ln(dy/dx).
    fn element<T: Real>(&self, x: f64, raw: &[T]) -> (f64, f64) {
        if !self.inside(x) {
            return (x, 0.0);
        }
        let shape = self.shape(raw);
        let (y, logdet) = curve(x, &shape.bin(shape.find(&shape.xs, x)));
        (y.value, logdet.value)
    }

    fn element_inverse<T: Real>(&self, y: f64, raw: &[T]) -> f64 {
        if !self.inside(y) {
            return y;
        }
        let shape = self.shape(raw);
        solved(y, &shape.bin(shape.find(&shape.ys, y)))
    }

    fn inside(&self, x: f64) -> bool {
        x > -self.bound && x < self.bound
    }

    /// Computes gradients from those of y and of ln(dy/dx): returns that of x and writes those of
    /// the raw parameters to `to_raw`.
    fn gradient<T: Real>(
        &self,
        x: f64,
        raw: &[T],
        to_y: f64,
        to_logdet: f64,
        to_raw: &mut [T],
    ) -> f64 {
        if !self.inside(x) {
            return to_y;
        }
        let shape = self.shape(raw);
        let k = shape.find(&shape.xs, x);
        let (y, logdet) = curve(x, &shape.bin(k));
        let mut by = [0.0; 7];
        for (b, (dy, dl)) in by.iter_mut().zip(y.by.iter().zip(&logdet.by)) {
            *b = to_y * dy + to_logdet * dl;
        }
        let [to_x, left, width, bottom, height, d0, d1] = by;
        let free = 2.0 * self.bound * (1.0 - MIN_SIZE * self.bins as f64);
        let mut spread = |softmax: &[f64], start: f64, size: f64, from: usize| {
            // The bins before bin k shift its start; the share of bin k itself is its size.
            let of = |i: usize| match i.cmp(&k) {
                std::cmp::Ordering::Less => start * free,
                std::cmp::Ordering::Equal => size * free,
                std::cmp::Ordering::Greater => 0.0,
            };
            let mean: f64 = softmax.iter().enumerate().map(|(i, s)| s * of(i)).sum();
            for (i, s) in softmax.iter().enumerate() {
                to_raw[from + i] = T::from_f64(s * (of(i) - mean));
            }
        };
        let bins = shape.bins;
        spread(&shape.widths[..bins], left, width, 0);
        spread(&shape.heights[..bins], bottom, height, bins);
        for (i, d) in [(k, d0), (k + 1, d1)] {
            // The slopes at the two ends are fixed to 1.
            if i > 0 && i < bins {
                to_raw[2 * bins + i - 1] = T::from_f64(d * shape.bends[i]);
            }
        }
        to_x
    }

    /// Computes y and ln(dy/dx), both with the shape of `x` (batch, n). `raw` has shape
    /// (batch, n·(3·bins − 1)).
    pub fn forward(&self, x: &Tensor, raw: &Tensor) -> Result<(Tensor, Tensor)> {
        let (_, n) = x.dims2()?;
        if !has_kernel(x) {
            return self.composed_forward(x, raw);
        }
        let op = Op {
            spline: *self,
            inverse: false,
        };
        let both = x.contiguous()?.apply_op2(&raw.contiguous()?, op)?;
        Ok((both.narrow(1, 0, n)?, both.narrow(1, n, n)?))
    }

    /// Computes the x that [`Spline::forward`] maps to `y` (batch, n). `raw` is as in
    /// [`Spline::forward`].
    pub fn inverse(&self, y: &Tensor, raw: &Tensor) -> Result<Tensor> {
        if !has_kernel(y) {
            return self.composed_inverse(y, raw);
        }
        let op = Op {
            spline: *self,
            inverse: true,
        };
        Ok(y.contiguous()?.apply_op2(&raw.contiguous()?, op)?)
    }

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

    fn composed_forward(&self, x: &Tensor, raw: &Tensor) -> Result<(Tensor, Tensor)> {
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

    fn composed_inverse(&self, y: &Tensor, raw: &Tensor) -> Result<Tensor> {
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

impl Shape1 {
    /// Returns the index of the bin that contains `at`, given the ends of the bins.
    fn find(&self, ends: &[f64], at: f64) -> usize {
        ends[1..self.bins].iter().take_while(|&&e| at >= e).count()
    }

    fn bin(&self, k: usize) -> Bin {
        [
            self.xs[k],
            self.xs[k + 1] - self.xs[k],
            self.ys[k],
            self.ys[k + 1] - self.ys[k],
            self.slopes[k],
            self.slopes[k + 1],
        ]
    }
}

struct Op {
    spline: Spline,
    inverse: bool,
}

/// Number of rows per parallel task.
const ROWS: usize = 16;

impl Op {
    fn kernel<T: Real>(&self, x: &[T], raw: &[T], n: usize) -> Vec<T> {
        let each = numbers_per_element(self.spline.bins);
        let width = if self.inverse { n } else { 2 * n };
        let mut out = vec![T::zero(); x.len() / n.max(1) * width];
        let parts = out.par_chunks_mut((ROWS * width).max(1));
        let parts = parts.zip(x.par_chunks((ROWS * n).max(1)));
        let parts = parts.zip(raw.par_chunks((ROWS * n * each).max(1)));
        parts.for_each(|((out, x), raw)| {
            for (r, row) in out.chunks_exact_mut(width).enumerate() {
                for k in 0..n {
                    let at = r * n + k;
                    let raw = &raw[at * each..(at + 1) * each];
                    let x = x[at].to_f64();
                    if self.inverse {
                        row[k] = T::from_f64(self.spline.element_inverse(x, raw));
                    } else {
                        let (y, logdet) = self.spline.element(x, raw);
                        row[k] = T::from_f64(y);
                        row[n + k] = T::from_f64(logdet);
                    }
                }
            }
        });
        out
    }

    /// Returns the gradients of x and of the raw parameters.
    fn backward<T: Real>(
        &self,
        x: &[T],
        raw: &[T],
        out: &[T],
        to_out: &[T],
        n: usize,
    ) -> [Vec<T>; 2] {
        let each = numbers_per_element(self.spline.bins);
        let width = if self.inverse { n } else { 2 * n };
        let mut to_x = vec![T::zero(); x.len()];
        let mut to_raw = vec![T::zero(); raw.len()];
        let parts = to_x
            .par_chunks_mut(n.max(1))
            .zip(to_raw.par_chunks_mut((n * each).max(1)));
        parts.enumerate().for_each(|(r, (to_x, to_raw))| {
            for k in 0..n {
                let at = r * n + k;
                let raw = &raw[at * each..(at + 1) * each];
                let to_raw = &mut to_raw[k * each..(k + 1) * each];
                let g = to_out[r * width + k].to_f64();
                let gradient = if self.inverse {
                    // x = g⁻¹(y): ∂x/∂y = 1/g′(x) and ∂x/∂θ = −(∂g/∂θ)/g′(x).
                    let found = out[r * width + k].to_f64();
                    let (_, logdet) = self.spline.element(found, raw);
                    let by = g * (-logdet).exp();
                    self.spline.gradient(found, raw, -by, 0.0, to_raw);
                    by
                } else {
                    let to_logdet = to_out[r * width + n + k].to_f64();
                    let x = x[at].to_f64();
                    self.spline.gradient(x, raw, g, to_logdet, to_raw)
                };
                to_x[k] = T::from_f64(gradient);
            }
        });
        [to_x, to_raw]
    }

    fn gradients<T: Real + WithDType>(
        &self,
        x: &Tensor,
        raw: &Tensor,
        out: &Tensor,
        to_out: &Tensor,
    ) -> candle_core::Result<[Tensor; 2]> {
        let (_, n) = x.dims2()?;
        let tensors = [x, raw, out, to_out].map(|t| t.storage_and_layout());
        let mut values = Vec::with_capacity(4);
        for (storage, layout) in &tensors {
            match &**storage {
                Storage::Cpu(s) => values.push(numbers::<T>(s, layout)?),
                _ => bail!("splines: expected tensors on the CPU"),
            }
        }
        let [to_x, to_raw] = self.backward(values[0], values[1], values[2], values[3], n);
        Ok([
            Tensor::from_vec(to_x, x.shape(), x.device())?,
            Tensor::from_vec(to_raw, raw.shape(), raw.device())?,
        ])
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "rational-quadratic-spline"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        raw: &CpuStorage,
        rl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, n) = xl.shape().dims2()?;
        if rl.shape().elem_count() != batch * n * numbers_per_element(self.spline.bins) {
            bail!(
                "splines: expected {1} parameters for each element of a tensor of shape {0:?}, found parameters of shape {2:?}",
                xl.shape(),
                numbers_per_element(self.spline.bins),
                rl.shape()
            );
        }
        let out = match x {
            CpuStorage::F32(_) => {
                CpuStorage::F32(self.kernel::<f32>(numbers(x, xl)?, numbers(raw, rl)?, n))
            }
            CpuStorage::F64(_) => {
                CpuStorage::F64(self.kernel::<f64>(numbers(x, xl)?, numbers(raw, rl)?, n))
            }
            other => bail!("splines: no kernel for {:?}", other.dtype()),
        };
        let width = if self.inverse { n } else { 2 * n };
        Ok((out, (batch, width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        raw: &Tensor,
        out: &Tensor,
        to_out: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let to_out = to_out.contiguous()?;
        let [to_x, to_raw] = match x.dtype() {
            DType::F64 => self.gradients::<f64>(x, raw, out, &to_out)?,
            _ => self.gradients::<f32>(x, raw, out, &to_out)?,
        };
        Ok((
            x.track_op().then_some(to_x),
            raw.track_op().then_some(to_raw),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use candle_core::{Device, Var};

    fn inputs(bins: usize) -> Result<(Var, Var)> {
        let mut rng = Rng::new(3);
        // Some values are inside the bounds, some outside.
        let x = (rng.normal((40, 5), &Device::Cpu)? * 2.0)?;
        let raw = rng.normal((40, 5 * numbers_per_element(bins)), &Device::Cpu)?;
        Ok((
            Var::from_tensor(&x.to_dtype(DType::F64)?)?,
            Var::from_tensor(&raw.to_dtype(DType::F64)?)?,
        ))
    }

    fn max_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
        Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
    }

    /// The CPU kernel and the composition for other devices compute the same map.
    #[test]
    fn both_ways_agree_in_values_and_gradients() -> Result<()> {
        for (bins, bound) in [(2, 1.0), (8, 3.0), (MAX_BINS, 4.0)] {
            let spline = Spline::new(bins, bound)?;
            let (x, raw) = inputs(bins)?;
            let weights = Rng::new(4).normal((40, 5), &Device::Cpu)?;
            let weights = weights.to_dtype(DType::F64)?;
            let forward = |(y, logdet): (Tensor, Tensor)| -> Result<Tensor> {
                Ok((y.sin()? + (logdet * &weights)?)?.sum_all()?)
            };
            let inverse = |x: Tensor| -> Result<Tensor> { Ok((x * &weights)?.sum_all()?) };
            for (one, other) in [
                (
                    forward(spline.forward(&x, &raw)?)?,
                    forward(spline.composed_forward(&x, &raw)?)?,
                ),
                (
                    inverse(spline.inverse(&x, &raw)?)?,
                    inverse(spline.composed_inverse(&x, &raw)?)?,
                ),
            ] {
                assert!(max_difference(&one, &other)? < 1e-8);
                let (ours, theirs) = (one.backward()?, other.backward()?);
                for var in [&x, &raw] {
                    let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                        panic!("a gradient is missing");
                    };
                    let difference = max_difference(a, b)?;
                    assert!(difference < 1e-7, "{bins} bins: difference {difference}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn zeros_are_the_identity_and_the_ends_are_smooth() -> Result<()> {
        let spline = Spline::new(8, 3.0)?;
        let (x, raw) = inputs(8)?;
        let (y, logdet) = spline.forward(&x, &raw.zeros_like()?)?;
        assert!(max_difference(&y, &x)? < 1e-12);
        assert!(max_difference(&logdet, &x.zeros_like()?)? < 1e-12);
        // The map is monotone, maps [−3, 3] into itself, and has a correct inverse.
        let numbers = raw.get(0)?.narrow(0, 0, numbers_per_element(8))?;
        let numbers: Vec<f64> = numbers.to_vec1()?;
        let mut last = f64::NEG_INFINITY;
        for i in -400..=400 {
            let x = f64::from(i) / 100.0;
            let (y, _) = spline.element(x, &numbers);
            assert!(y > last && y.abs() <= x.abs().max(3.0));
            assert!((spline.element_inverse(y, &numbers) - x).abs() < 1e-10);
            last = y;
        }
        // At the bound the slope is 1, as that of the identity.
        let (_, logdet) = spline.element(3.0 - 1e-9, &numbers);
        assert!(logdet.abs() < 1e-6, "{logdet}");
        // Raw values so large that each softmax is close to one-hot.
        let large: Vec<f64> = numbers.iter().map(|x| x * 1e4).collect();
        let (y, logdet) = spline.element(0.3, &large);
        assert!(y.is_finite() && logdet.is_finite());
        Ok(())
    }

    #[test]
    fn sizes_that_make_no_spline_are_refused() {
        for (bins, bound) in [(1, 3.0), (65, 3.0), (8, 0.0), (8, f64::NAN)] {
            assert!(Spline::new(bins, bound).is_err());
        }
    }
}
