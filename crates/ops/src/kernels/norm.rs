//! Batch norm: statistics of channels, the normalisation and its gradient.

use super::Number;
use super::elementwise::{map2, written};
use crate::Activation;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Returns the mean and the biased variance of each channel of images (batch, channels, …), in
/// f64.
pub(crate) fn statistics<T: Number>(x: &[T], channels: usize, plane: usize) -> Vec<(f64, f64)> {
    let count = (x.len() / channels) as f64;
    let of = |c: usize| {
        let planes = x.chunks(plane).skip(c).step_by(channels);
        // Sums are taken relative to the first value: otherwise the variance of a channel with a
        // large mean would be lost by rounding.
        let origin = x[c * plane].to_f64();
        let (mut sum, mut squares) = (0.0, 0.0);
        for plane in planes {
            for part in plane.chunks(256) {
                let (mut s, mut q) = ([0.0; 8], [0.0; 8]);
                let mut blocks = part.chunks_exact(8);
                for block in &mut blocks {
                    for ((s, q), v) in s.iter_mut().zip(&mut q).zip(block) {
                        let v = v.to_f64() - origin;
                        *s += v;
                        *q += v * v;
                    }
                }
                for v in blocks.remainder() {
                    let v = v.to_f64() - origin;
                    s[0] += v;
                    q[0] += v * v;
                }
                sum += s.iter().sum::<f64>();
                squares += q.iter().sum::<f64>();
            }
        }
        let mean = sum / count;
        (origin + mean, (squares / count - mean * mean).max(0.0))
    };
    (0..channels).into_par_iter().map(of).collect()
}

/// Batch norm: (x − mean)·rstd·weight + bias per channel, then the activation. With `of_batch`,
/// mean and rstd are the statistics of x itself, and the gradient includes their dependence on x.
pub(crate) struct ChannelNorm {
    pub(crate) mean: Vec<f64>,
    pub(crate) rstd: Vec<f64>,
    pub(crate) activation: Activation,
    pub(crate) of_batch: bool,
}

impl ChannelNorm {
    pub(crate) fn slope(&self) -> f64 {
        match self.activation {
            Activation::None => 1.0,
            Activation::Leaky(slope) => slope,
        }
    }

    pub(crate) fn kernel<T: Number>(
        &self,
        x: &[T],
        weight: &[T],
        bias: &[T],
        plane: usize,
    ) -> Vec<T> {
        let channels = weight.len();
        let slope = T::from_f64(self.slope());
        let write = |at: usize, out: &mut [MaybeUninit<T>]| {
            let planes = out.chunks_mut(plane).zip(x[at..].chunks(plane));
            for (i, (out, x)) in planes.enumerate() {
                let c = (at / plane + i) % channels;
                let scale = weight[c].to_f64() * self.rstd[c];
                let shift = T::from_f64(bias[c].to_f64() - scale * self.mean[c]);
                // Local copies: the compiler does not vectorise the selection below through a
                // reference.
                let (scale, slope) = (T::from_f64(scale), slope);
                for (o, &x) in out.iter_mut().zip(x) {
                    let mut y = scale * x;
                    y += shift;
                    o.write(y * if y > T::default() { T::ONE } else { slope });
                }
            }
        };
        // SAFETY: pieces and x are cut into the same planes, and each element of a plane is written.
        unsafe { written(x.len(), plane, write) }
    }

    /// Returns the gradients of x, and of weight and bias if `affine` is set.
    pub(crate) fn backward<T: Number>(
        &self,
        x: &[T],
        weight: &[T],
        result: &[T],
        gradient: &[T],
        (plane, affine): (usize, bool),
    ) -> (Vec<T>, Option<[Vec<T>; 2]>) {
        let channels = weight.len();
        let slope = T::from_f64(self.slope());
        let before = map2(result, gradient, move |r, g| {
            g * if r > T::default() { T::ONE } else { slope }
        });
        // For each channel: Σ g and Σ g·(x − mean)·rstd.
        let sums: Vec<(f64, f64)> = if affine || self.of_batch {
            let of = |c: usize| {
                let (mut g_sum, mut gx_sum) = (0.0, 0.0);
                let mean = self.mean[c];
                for at in (c * plane..x.len()).step_by(channels * plane) {
                    // Eight parallel partial sums: they vectorise and are more accurate than one
                    // long sum.
                    let (mut s, mut q) = ([0.0; 8], [0.0; 8]);
                    let pairs = x[at..at + plane]
                        .chunks(8)
                        .zip(before[at..at + plane].chunks(8));
                    for (x, g) in pairs {
                        for (((s, q), x), g) in s.iter_mut().zip(&mut q).zip(x).zip(g) {
                            let g = g.to_f64();
                            *s += g;
                            *q += g * (x.to_f64() - mean);
                        }
                    }
                    g_sum += s.iter().sum::<f64>();
                    gx_sum += q.iter().sum::<f64>();
                }
                (g_sum, gx_sum * self.rstd[c])
            };
            (0..channels).into_par_iter().map(of).collect()
        } else {
            Vec::new()
        };
        let count = (x.len() / channels) as f64;
        assert_eq!(before.len(), x.len());
        let write = |at: usize, out: &mut [MaybeUninit<T>]| {
            let planes = out.chunks_mut(plane).zip(x[at..].chunks(plane));
            let planes = planes.zip(before[at..].chunks(plane));
            for (i, ((out, x), g)) in planes.enumerate() {
                let c = (at / plane + i) % channels;
                let scale = weight[c].to_f64() * self.rstd[c];
                if !self.of_batch {
                    let scale = T::from_f64(scale);
                    out.iter_mut().zip(g).for_each(|(d, g)| {
                        d.write(scale * *g);
                    });
                    continue;
                }
                let (g_sum, gx_sum) = sums[c];
                let tilt = T::from_f64(-scale * self.rstd[c] * gx_sum / count);
                let (shift, less) = (-scale * g_sum / count, T::from_f64(-self.mean[c]));
                let (scale, shift) = (T::from_f64(scale), T::from_f64(shift));
                for ((d, x), g) in out.iter_mut().zip(x).zip(g) {
                    let mut centred = *x;
                    centred += less;
                    let mut value = scale * *g;
                    value += tilt * centred;
                    value += shift;
                    d.write(value);
                }
            }
        };
        // SAFETY: pieces, x and `before` are cut into the same planes, and each element of a plane is
        // written in either branch.
        let dx = unsafe { written(x.len(), plane, write) };
        let of = |f: fn(&(f64, f64)) -> f64| sums.iter().map(|s| T::from_f64(f(s))).collect();
        (dx, affine.then(|| [of(|s| s.1), of(|s| s.0)]))
    }
}
