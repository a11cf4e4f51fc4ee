//! Labelled 2D points from known densities, to test conditional flows.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_ops::{Rng, values};
use std::f64::consts::{PI, TAU};

/// A distribution of labelled points in the plane whose density is known exactly. What a
/// conditional flow learns from these points can be compared with the true density, in nats and
/// as an image.
///
/// ```
/// use invariances_data::Plane;
/// use invariances_ops::Rng;
/// let ring = Plane::ring();
/// let (points, labels) = ring.draw(500, &mut Rng::new(0))?;
/// assert_eq!((points.dims(), labels.dims()), (&[500, 2][..], &[500, 2][..]));
/// let nats = ring.log_density(&points, &labels)?; // log p(point | label)
/// assert_eq!(nats.dims(), [500]);
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plane {
    shape: Shape,
    /// Standard deviation of the noise around the shape.
    noise: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Moons,
    Ring,
}

/// Number of Gaussians of the ring; they alternate between the two labels.
const MODES: usize = 8;
const RADIUS: f64 = 2.0;
/// Number of points with which a moon's arc is approximated. Their distance is much smaller than
/// the noise.
const ARC: usize = 400;

impl Plane {
    /// Two interlocking half-circles with noise of standard deviation 0.1. The label is the
    /// half-circle.
    pub fn moons() -> Self {
        Self {
            shape: Shape::Moons,
            noise: 0.1,
        }
    }

    /// Eight Gaussians of standard deviation 0.2 on a circle of radius 2. The label states whether
    /// the Gaussian has an even or an odd index, so that each label has four separate modes.
    pub fn ring() -> Self {
        Self {
            shape: Shape::Ring,
            noise: 0.2,
        }
    }

    /// Returns the number of labels.
    pub fn labels(&self) -> usize {
        2
    }

    /// Returns the centres of the Gaussians whose equally weighted mixture is the density of a
    /// label.
    fn centres(&self, label: usize) -> Vec<[f64; 2]> {
        match self.shape {
            Shape::Moons => (0..ARC)
                .map(|i| Self::moon(label, (i as f64 + 0.5) / ARC as f64))
                .collect(),
            Shape::Ring => (label..MODES).step_by(2).map(Self::mode).collect(),
        }
    }

    fn moon(label: usize, along: f64) -> [f64; 2] {
        let angle = PI * along;
        match label {
            0 => [angle.cos() - 0.5, angle.sin() - 0.25],
            _ => [0.5 - angle.cos(), 0.25 - angle.sin()],
        }
    }

    fn mode(k: usize) -> [f64; 2] {
        let angle = TAU * k as f64 / MODES as f64;
        [RADIUS * angle.cos(), RADIUS * angle.sin()]
    }

    /// Samples `n` points of shape (n, 2) and their one-hot labels of shape (n, labels), f32 on
    /// the CPU.
    pub fn draw(&self, n: usize, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        let labels: Vec<u32> = (0..n).map(|_| rng.below(self.labels()) as u32).collect();
        let mut points = Vec::with_capacity(2 * n);
        for &label in &labels {
            let label = label as usize;
            let centre = match self.shape {
                Shape::Moons => Self::moon(label, f64::from(rng.f32())),
                Shape::Ring => Self::mode(2 * rng.below(MODES / 2) + label),
            };
            points.extend(centre.map(|c| (c + self.noise * f64::from(rng.normal_f32())) as f32));
        }
        let points = Tensor::from_vec(points, (n, 2), &Device::Cpu)?;
        Ok((points, self.one_hot(&labels)?))
    }

    /// Returns one-hot labels of shape (n, labels).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a label that does not exist.
    pub fn one_hot(&self, labels: &[u32]) -> Result<Tensor> {
        let width = self.labels();
        let mut values = vec![0f32; labels.len() * width];
        for (row, &label) in values.chunks_exact_mut(width).zip(labels) {
            *row.get_mut(label as usize).ok_or_else(|| {
                Error::invalid(format!(
                    "expected a label from 0 to {}, found {label}",
                    width - 1
                ))
            })? = 1.0;
        }
        Ok(Tensor::from_vec(
            values,
            (labels.len(), width),
            &Device::Cpu,
        )?)
    }

    /// Returns log p(point | label) in nats, f64, of shape (n,).
    ///
    /// # Errors
    /// [`Error::Shape`] unless the points are (n, 2) and the labels are one-hot (n, labels), as
    /// returned by [`Plane::draw`].
    pub fn log_density(&self, points: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let n = points.dims().first().copied().unwrap_or(0);
        if points.dims() != [n, 2] || labels.dims() != [n, self.labels()] {
            return Err(Error::shape(format!(
                "expected points of shape (n, 2) and labels of shape (n, {}), found {:?} and {:?}",
                self.labels(),
                points.dims(),
                labels.dims()
            )));
        }
        let points = values(points)?;
        let labels: Vec<u32> = labels.argmax(1)?.to_vec1()?;
        let centres: Vec<_> = (0..self.labels()).map(|l| self.centres(l)).collect();
        let wide = 2.0 * self.noise * self.noise;
        let values = points.chunks_exact(2).zip(labels).map(|(p, label)| {
            let centres = &centres[label as usize];
            let near = |c: &[f64; 2]| -((p[0] - c[0]).powi(2) + (p[1] - c[1]).powi(2)) / wide;
            // Log-sum-exp: the largest term is factored out, because far from the centres all
            // terms underflow to 0.
            let most = centres.iter().map(near).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = centres.iter().map(|c| (near(c) - most).exp()).sum();
            most + (sum / centres.len() as f64 / (PI * wide)).ln()
        });
        let values: Vec<f64> = values.collect();
        Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
    }

    /// Returns half the side of the square around 0 that images of the density show.
    pub fn extent(&self) -> f64 {
        match self.shape {
            Shape::Moons => 2.0,
            Shape::Ring => 3.0,
        }
    }

    /// Returns the centres of an image's pixels, shape (side², 2), row by row from the top.
    pub fn pixels(&self, side: usize) -> Result<Tensor> {
        let step = 2.0 * self.extent() / side.max(1) as f64;
        let at = |i: usize| (i as f64 + 0.5) * step - self.extent();
        let rows = (0..side).rev();
        let points = rows.flat_map(|y| (0..side).flat_map(move |x| [at(x) as f32, at(y) as f32]));
        let points: Vec<f32> = points.collect();
        Ok(Tensor::from_vec(points, (side * side, 2), &Device::Cpu)?)
    }

    /// Returns a histogram density of points (n, 2) as an image (side, side): the fraction of
    /// points in each pixel, divided by the pixel's area.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the points are (n, 2) with n and `side` above 0.
    pub fn histogram(&self, points: &Tensor, side: usize) -> Result<Tensor> {
        let n = points.dims().first().copied().unwrap_or(0);
        if points.dims() != [n, 2] || n * side == 0 {
            return Err(Error::shape(format!(
                "expected points of shape (n, 2) with n and the side above 0, found {:?} and side {side}",
                points.dims()
            )));
        }
        let step = 2.0 * self.extent() / side as f64;
        let each = 1.0 / (n as f64 * step * step);
        let mut picture = vec![0f32; side * side];
        for p in values(points)?.chunks_exact(2) {
            let [x, y] = [p[0], p[1]].map(|c| ((c + self.extent()) / step).floor());
            let inside = |c: f64| c >= 0.0 && c < side as f64;
            if inside(x) && inside(y) {
                picture[(side - 1 - y as usize) * side + x as usize] += each as f32;
            }
        }
        Ok(Tensor::from_vec(picture, (side, side), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// The stated density matches that of the sampled points and integrates to 1.
    #[test]
    fn densities_are_those_of_the_points() -> Result<()> {
        for plane in [Plane::moons(), Plane::ring()] {
            let side = 60;
            let pixels = plane.pixels(side)?;
            let area = (2.0 * plane.extent() / side as f64).powi(2);
            let (points, labels) = plane.draw(40_000, &mut Rng::new(1))?;
            let labels: Vec<u32> = labels.argmax(1)?.to_vec1()?;
            for label in 0..2u32 {
                let all = plane.one_hot(&vec![label; side * side])?;
                let density = plane.log_density(&pixels, &all)?.exp()?;
                let total: f64 = (density.sum_all()? * area)?.to_scalar()?;
                assert!((total - 1.0).abs() < 0.01, "{plane:?}: {total}");
                let of: Vec<u32> = (0..40_000u32)
                    .filter(|i| labels[*i as usize] == label)
                    .collect();
                let of = Tensor::new(of, &Device::Cpu)?;
                let drawn = plane.histogram(&points.index_select(&of, 0)?, side)?;
                let drawn = drawn.to_dtype(DType::F64)?.flatten_all()?;
                // Half the L1 distance (total variation); part of it is sampling noise.
                let off = ((drawn - density)?.abs()?.sum_all()? * (area / 2.0))?;
                let off: f64 = off.to_scalar()?;
                assert!(off < 0.1, "{plane:?}: {off}");
            }
        }
        assert!(Plane::ring().one_hot(&[2]).is_err());
        Ok(())
    }
}
