//! Metrics of images: class agreement, PSNR, and the amount of fine structure.

use super::same_answers;
use crate::ops::widened as wide;
use crate::ops::{Placement, values};
use crate::{Error, Result};
use candle_core::Tensor;

/// Returns, per image, 1 if two class assignments agree and 0 otherwise. Both are u32 (batch,).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn agreement(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    if a.dims() != b.dims() || a.rank() != 1 {
        return Err(Error::shape(format!(
            "expected two tensors of classes of the same shape (batch,), found {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    let classes = |x: &Tensor| -> Result<Vec<u32>> {
        Ok(values(x)?.into_iter().map(|class| class as u32).collect())
    };
    same_answers(&classes(a)?, &classes(b)?)
}

/// Computes the peak signal-to-noise ratio per image in dB, 10·log₁₀(4 / mse), for images (batch,
/// channels, h, w) in [−1, 1]. Equal images give the maximum, 120 dB, which is the limit of what
/// f32 can resolve.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn psnr(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    if x.dims() != y.dims() || x.rank() != 4 {
        return Err(Error::shape(format!(
            "expected images of the same shape (batch, channels, h, w), found {:?} and {:?}",
            x.dims(),
            y.dims()
        )));
    }
    let x = wide(x)?;
    let y = Placement::of(&x).take(y)?;
    let mse = (x - y)?.sqr()?.flatten_from(1)?.mean(1)?;
    Ok(values(&mse)?
        .into_iter()
        .map(|m| 10.0 * (4.0 / m.max(4e-12)).log10())
        .collect())
}

/// Measures the fine structure of each image (batch, channels, h, w): the mean squared difference
/// between neighbouring pixels, horizontally plus vertically. A blurred copy has less than its
/// original; the ratio of the two measures the blur.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::metric::fine_structure;
/// let x = Digits::strokes(32, 0)?.batch(Split::Test, 0, 2)?.images;
/// let soft = x.avg_pool2d(2)?.upsample_nearest2d(32, 32)?;
/// assert!(fine_structure(&soft)?[0] < fine_structure(&x)?[0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for another number of dimensions, or a height or width of less than 2
/// pixels.
pub fn fine_structure(images: &Tensor) -> Result<Vec<f64>> {
    let (h, w) = match images.dims() {
        &[_, _, h, w] if h > 1 && w > 1 => (h, w),
        other => {
            return Err(Error::shape(format!(
                "expected images of shape (batch, channels, h, w) with at least 2 pixels per side, \
                 found {other:?}"
            )));
        }
    };
    let images = wide(images)?;
    let per_image = |t: Tensor| -> Result<Tensor> { Ok(t.sqr()?.flatten_from(1)?.mean(1)?) };
    let across = (images.narrow(3, 1, w - 1)? - images.narrow(3, 0, w - 1)?)?;
    let down = (images.narrow(2, 1, h - 1)? - images.narrow(2, 0, h - 1)?)?;
    let both = (per_image(across)? + per_image(down)?)?;
    values(&both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Rng;
    use candle_core::{DType, Device};

    #[test]
    fn images_and_classes_of_other_types_are_compared() -> Result<()> {
        let mut rng = Rng::new(0);
        let shape = (2, 3, 16, 16);
        let x = rng.uniform(-1.0, 1.0, shape, &Device::Cpu)?;
        let y = rng.uniform(-1.0, 1.0, shape, &Device::Cpu)?;
        let expected = psnr(&x, &y)?;
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            let found = psnr(&x.to_dtype(dtype)?, &y)?;
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 0.1, "{dtype:?}: {a} {b}");
            }
        }
        let classes = Tensor::new(&[3u32, 300], &Device::Cpu)?;
        let others = Tensor::new(&[3i64, 301], &Device::Cpu)?;
        assert_eq!(agreement(&classes, &others)?, [1.0, 0.0]);
        Ok(())
    }
}
