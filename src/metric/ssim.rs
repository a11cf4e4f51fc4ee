//! Structural similarity (SSIM) of images.

use crate::ops::{ConvConfig, conv2d, host, values};
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// The side of the window in pixels, and the standard deviation of its Gaussian.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;

/// Computes the structural similarity (Wang et al. 2004, doi 10.1109/TIP.2003.819861) of each
/// pair of images (batch, channels, h, w) in [−1, 1]. Equal images give 1.
///
/// Means, variances and the covariance are taken in a Gaussian window of 11 pixels with standard
/// deviation 1.5. The constants are (0.01·2)² and (0.03·2)². The result is the mean over channels
/// and over all positions where the window lies inside the image.
///
/// ```
/// use invariances::{candle_core::Device, metric::ssim, ops::Rng};
/// let x = Rng::new(0).uniform(-1.0, 1.0, (2, 3, 16, 16), &Device::Cpu)?;
/// assert!(ssim(&x, &x)?.iter().all(|s| (s - 1.0).abs() < 1e-6));
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes differ, or if the images are smaller than the window.
pub fn ssim(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    let (batch, channels, h, w) = match (x.dims(), y.dims()) {
        (&[b, c, h, w], other) if x.dims() == other && b > 0 && c > 0 && h.min(w) >= WINDOW => {
            (b, c, h, w)
        }
        (x, y) => {
            return Err(Error::shape(format!(
                "expected images of the same shape (batch, channels, h, w) with at least {WINDOW} \
                 pixels per side, found {x:?} and {y:?}"
            )));
        }
    };
    let middle = (WINDOW / 2) as f64;
    let kernel: Vec<f64> = (0..WINDOW)
        .map(|i| (-(i as f64 - middle).powi(2) / (2.0 * SIGMA * SIGMA)).exp())
        .collect();
    let sum: f64 = kernel.iter().sum();
    // Channel by channel, in f64: variances are differences of nearly equal numbers.
    let plane =
        |t: &Tensor| -> Result<Tensor> { Ok(host(t)?.reshape((batch * channels, 1, h, w))?) };
    let (x, y) = (plane(x)?, plane(y)?);
    let kernel = Tensor::new(kernel, x.device())?.affine(1.0 / sum, 0.0)?;
    let none = Tensor::zeros(1, DType::F64, x.device())?;
    let blurred = |t: &Tensor| -> Result<Tensor> {
        let plain = ConvConfig::default();
        let rows = conv2d(t, &kernel.reshape((1, 1, WINDOW, 1))?, &none, plain)?;
        conv2d(&rows, &kernel.reshape((1, 1, 1, WINDOW))?, &none, plain)
    };
    let (mx, my) = (blurred(&x)?, blurred(&y)?);
    let both = (&mx * &my)?;
    let (xx, yy) = (mx.sqr()?, my.sqr()?);
    let variances = ((blurred(&x.sqr()?)? - &xx)? + (blurred(&y.sqr()?)? - &yy)?)?;
    let covariance = (blurred(&(&x * &y)?)? - &both)?;
    let (c1, c2) = (0.02f64.powi(2), 0.06f64.powi(2));
    let above = (both.affine(2.0, c1)? * covariance.affine(2.0, c2)?)?;
    let below = ((xx + yy)?.affine(1.0, c1)? * variances.affine(1.0, c2)?)?;
    values(&(above / below)?.reshape((batch, ()))?.mean(1)?)
}
