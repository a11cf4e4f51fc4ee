use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// 1 where two class assignments agree and 0 where they do not, per image. Both u32 (batch,).
///
/// # Errors
/// [`Error::Invalid`] where the two differ in shape.
pub fn agreement(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    if a.dims() != b.dims() || a.rank() != 1 {
        return Err(Error::invalid(format!(
            "agreement compares classes (batch,) of one length, found {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    let (a, b) = (
        a.to_dtype(DType::U32)?.to_vec1::<u32>()?,
        b.to_dtype(DType::U32)?.to_vec1::<u32>()?,
    );
    Ok(a.iter()
        .zip(&b)
        .map(|(a, b)| f64::from(u8::from(a == b)))
        .collect())
}

/// Peak signal-to-noise ratio per image in dB, 10·log₁₀(4 / mse) for images (batch, channels, h, w) in [−1, 1].
/// Equal images give 120 dB, what f32 can tell apart.
///
/// # Errors
/// [`Error::Invalid`] where the two differ in shape.
pub fn psnr(x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
    if x.dims() != y.dims() || x.rank() != 4 {
        return Err(Error::invalid(format!(
            "PSNR compares images (batch, channels, h, w) of one shape, found {:?} and {:?}",
            x.dims(),
            y.dims()
        )));
    }
    let mse = (x - y)?
        .sqr()?
        .flatten_from(1)?
        .mean(1)?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    Ok(mse
        .into_iter()
        .map(|m| 10.0 * (4.0 / m.max(4e-12)).log10())
        .collect())
}
