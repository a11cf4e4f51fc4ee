//! The spline of one element on the CPU: value, inverse and gradient.

use super::curve::{Bin, curve, solved};
use super::{MAX_BINS, MIN_SIZE, Spline};
use crate::kernels::Real;

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

impl Spline {
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
    pub(super) fn offset() -> f64 {
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
    pub(super) fn element<T: Real>(&self, x: f64, raw: &[T]) -> (f64, f64) {
        if !self.inside(x) {
            return (x, 0.0);
        }
        let shape = self.shape(raw);
        let (y, logdet) = curve(x, &shape.bin(shape.find(&shape.xs, x)));
        (y.value, logdet.value)
    }

    pub(super) fn element_inverse<T: Real>(&self, y: f64, raw: &[T]) -> f64 {
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
    pub(super) fn gradient<T: Real>(
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
}
