//! Pooling of planes.

use super::Number;
use super::elementwise::written;
use crate::pool::{Kind, Pool, larger};
use std::mem::MaybeUninit;

impl Pool {
    /// Pools each plane of x (planes, h, w) to (planes, oh, ow).
    pub(crate) fn forward<T: Number>(&self, x: &[T], [_, _, h, w, oh, ow]: [usize; 6]) -> Vec<T> {
        let planes = x.len() / (h * w).max(1);
        let each_plane = |at: usize, out: &mut [MaybeUninit<T>]| {
            let mut line = vec![T::default(); w];
            let x = x[at / (oh * ow) * (h * w)..].chunks(h * w);
            for (out, x) in out.chunks_mut(oh * ow).zip(x) {
                for (oy, out) in out.chunks_mut(ow).enumerate() {
                    // First combines the rows of the windows, which vectorises, then their
                    // columns.
                    let (y0, y1) = self.config.window(oy, h);
                    line.copy_from_slice(&x[y0 * w..][..w]);
                    for other in x[(y0 + 1) * w..y1 * w].chunks(w) {
                        let pairs = line.iter_mut().zip(other);
                        match self.kind {
                            Kind::Max => pairs.for_each(|(l, o)| *l = larger(*l, *o)),
                            Kind::Mean => pairs.for_each(|(l, o)| *l += *o),
                        }
                    }
                    for (ox, out) in out.iter_mut().enumerate() {
                        let (x0, x1) = self.config.window(ox, w);
                        let mut value = line[x0];
                        for &other in &line[x0 + 1..x1] {
                            match self.kind {
                                Kind::Max => value = larger(value, other),
                                Kind::Mean => value += other,
                            }
                        }
                        out.write(match self.kind {
                            Kind::Max => value,
                            Kind::Mean => {
                                value * T::from_f64(self.divisor((oy, ox), (h, w)).recip())
                            }
                        });
                    }
                }
            }
        };
        // SAFETY: x and the result have the same number of planes, and every element of a plane is
        // written.
        unsafe { written(planes * oh * ow, oh * ow, each_plane) }
    }
}
