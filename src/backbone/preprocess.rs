//! The preprocessing that a network expects: resizing, and a normalization of the colours.

use crate::Result;
use crate::ops::resize_bilinear;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// The preprocessing that a network expects, as differentiable steps: a size, and a mean and
/// standard deviation per colour channel.
///
/// Images in this crate have shape (batch, 3, height, width) and values in [−1, 1].
///
/// ```
/// use invariances::{backbone::Preprocess, candle_core::{DType, Device, Tensor}};
/// let white = Tensor::ones((1, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let x = Preprocess::imagenet(224).apply(&white)?;
/// assert_eq!(x.dims(), [1, 3, 224, 224]);
/// let red = x.flatten_all()?.to_vec1::<f32>()?[0];
/// assert!((red - (1.0 - 0.485) / 0.229).abs() < 1e-5);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// The side length to which images are resized, in pixels; `None` leaves the size unchanged.
    pub size: Option<usize>,
    /// Whether shrinking an image averages over the pixels that are left out.
    pub antialias: bool,
    /// The mean of each colour channel, for values in [0, 1].
    pub mean: [f64; 3],
    /// The standard deviation of each colour channel, for values in [0, 1].
    pub std: [f64; 3],
}

impl Preprocess {
    /// Leaves images unchanged: values in [−1, 1], any size.
    pub fn none() -> Self {
        Self {
            size: None,
            antialias: true,
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    /// The normalization for ImageNet, as torchvision's networks expect it.
    pub fn imagenet(size: usize) -> Self {
        Self {
            size: Some(size),
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..Self::none()
        }
    }

    /// Values in [−1, 1] at a fixed size, as for the first vision transformers and FID's
    /// Inception (299 px).
    pub fn half(size: usize) -> Self {
        Self {
            size: Some(size),
            ..Self::none()
        }
    }

    /// FaceNet's (x − 127.5)/128 at 160 px.
    pub fn facenet() -> Self {
        Self {
            std: [128.0 / 255.0; 3],
            ..Self::half(160)
        }
    }

    /// The normalization of CLIP (arXiv 2103.00020).
    pub fn clip(size: usize) -> Self {
        Self {
            size: Some(size),
            mean: [0.48145466, 0.4578275, 0.40821073],
            std: [0.26862954, 0.26130258, 0.27577711],
            ..Self::none()
        }
    }

    /// Converts images (batch, 3, h, w) in [−1, 1] to the input of the network.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the input is to be resized and is not a batch of images.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let resized = match self.size {
            Some(size) => resize_bilinear(images, (size, size), self.antialias)?,
            None => images.clone(),
        };
        if self.mean == [0.5; 3] && self.std == [0.5; 3] {
            return Ok(resized);
        }
        // (x/2 + 1/2 − mean)/std, as one multiplication and one addition.
        let per = |f: &dyn Fn(usize) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = (0..3).map(|c| f(c) as f32).collect();
            let values = Tensor::from_vec(values, (1, 3, 1, 1), images.device())?;
            Ok(values.to_dtype(images.dtype())?)
        };
        let scale = per(&|c| 0.5 / self.std[c])?;
        let shift = per(&|c| (0.5 - self.mean[c]) / self.std[c])?;
        Ok(resized.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }
}

impl Default for Preprocess {
    fn default() -> Self {
        Self::none()
    }
}
