//! Random crops of images as data augmentation.

use crate::{Error, Result};
use candle_core::Tensor;
use invariances_ops::{Rng, resize_bilinear};

/// Crops a random part of each image (batch, channels, h, w), resizes it to the image's size and
/// mirrors it with probability 1/2.
///
/// This is the usual augmentation for networks that are trained on photographs (torchvision's
/// `RandomResizedCrop`, with `min_area` = 0.08). The crop's area is uniform between `min_area` and
/// 1 of the image's area, and its aspect ratio relative to the image's is between 3/4 and 4/3; sides
/// are limited to the image's. A network that often sees only a part of the image learns to rely
/// on texture, which is present in every part (Hermann, Chen, Kornblith 2020,
/// [arXiv 1911.09071](https://arxiv.org/abs/1911.09071)).
///
/// ```
/// use invariances_data::random_crops;
/// use invariances_ops::Rng;
/// use candle_core::Device;
/// let x = Rng::new(0).uniform(-1.0, 1.0, (4, 3, 32, 32), &Device::Cpu)?;
/// let parts = random_crops(&x, 0.08, &mut Rng::new(1))?;
/// assert_eq!(parts.dims(), x.dims());
/// # Ok::<(), invariances_data::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if there are no images; [`Error::Invalid`] if `min_area` is not in (0, 1].
pub fn random_crops(images: &Tensor, min_area: f64, rng: &mut Rng) -> Result<Tensor> {
    let (n, _, h, w) = match images.dims() {
        &[n, c, h, w] if n > 0 && h > 0 && w > 0 => (n, c, h, w),
        other => {
            return Err(Error::shape(format!(
                "expected images of shape (batch, channels, height, width) with at least one pixel, found {other:?}"
            )));
        }
    };
    if !(min_area > 0.0 && min_area <= 1.0) {
        return Err(Error::invalid(format!(
            "expected a minimum area of a crop above 0 and at most 1, found {min_area}"
        )));
    }
    let mut parts = Vec::with_capacity(n);
    for i in 0..n {
        let area = f64::from(rng.range(min_area as f32, 1.0));
        let ratio = f64::from(rng.range(-1.0, 1.0)) * (4.0f64 / 3.0).ln();
        let side = |whole: usize, log: f64| {
            let length = (area * (0.5 * log).exp().powi(2)).sqrt() * whole as f64;
            (length.round() as usize).clamp(1, whole)
        };
        let (height, width) = (side(h, -ratio), side(w, ratio));
        let (top, left) = (rng.below(h - height + 1), rng.below(w - width + 1));
        let mirrored = rng.below(2) == 1;
        let part = images.narrow(0, i, 1)?.narrow(2, top, height)?;
        let part = resize_bilinear(&part.narrow(3, left, width)?.contiguous()?, (h, w), true)?;
        parts.push(if mirrored { part.flip(&[3])? } else { part });
    }
    Ok(Tensor::cat(&parts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_part_is_a_part_of_its_own_image_and_the_whole_is_the_image_or_its_mirror() -> Result<()> {
        // Each image has its own range of values, so pixels from another image would be detected.
        let x = Rng::new(0).uniform(0.0, 1.0, (16, 1, 24, 20), &Device::Cpu)?;
        let offset = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((16, 1, 1, 1))?;
        let x = x.to_dtype(DType::F32)?.broadcast_add(&(offset * 10.0)?)?;
        let parts = random_crops(&x, 0.05, &mut Rng::new(3))?;
        assert_eq!(parts.dims(), x.dims());
        for i in 0..16 {
            let values = parts.get(i)?.flatten_all()?.to_vec1::<f32>()?;
            let low = 10.0 * i as f32;
            assert!(values.iter().all(|v| (low..=low + 1.0).contains(v)), "{i}");
        }
        let again = random_crops(&x, 0.05, &mut Rng::new(3))?;
        let gap = (&again - &parts)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert_eq!(gap, 0.0);
        // With `min_area` = 1 the crop covers the square image, except for the change of aspect
        // ratio: the shorter side of the crop loses at most one seventh.
        let ramp = Tensor::arange(0f32, 32.0, &Device::Cpu)?.broadcast_as((64, 1, 32, 32))?;
        let whole = random_crops(&ramp, 1.0, &mut Rng::new(4))?;
        let rows = whole.narrow(2, 0, 1)?.reshape((64, 32))?.to_vec2::<f32>()?;
        let mirrored = rows.iter().filter(|r| r[0] > r[31]).count();
        assert!((16..48).contains(&mirrored), "{mirrored}");
        assert!(rows.iter().all(|r| (r[0] - r[31]).abs() > 0.8 * 31.0));
        for bad in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(random_crops(&x, bad, &mut Rng::new(0)).is_err());
        }
        assert!(random_crops(&x.get(0)?, 0.5, &mut Rng::new(0)).is_err());
        Ok(())
    }
}
