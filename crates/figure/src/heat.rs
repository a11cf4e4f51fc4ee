//! Colours for numbers: from white through blue to nearly black.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// The colours between which [`heat`] interpolates: white, three blues from light to dark, nearly
/// black. The lightness always decreases, so that the colours can be distinguished in greyscale
/// and by colour-blind people.
const STOPS: [[f32; 3]; 5] = [
    [255.0, 255.0, 255.0],
    [166.0, 215.0, 240.0],
    [56.0, 150.0, 200.0],
    [0.0, 84.0, 140.0],
    [20.0, 24.0, 48.0],
];

/// Converts numbers (n, height, width) to colours: images (n, 3, height, width) in [-1, 1] for an
/// [`ImageGrid`](super::ImageGrid).
///
/// The scale goes from 0 (white) to `max` (nearly black). Values outside it get the colour of
/// the nearer end.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use invariances_figure::{ImageGrid, heat};
/// let values = Tensor::new(&[[[0f32, 0.5], [1.0, 2.0]]], &Device::Cpu)?;
/// let figure = ImageGrid::new(&heat(&values, 1.0)?, 1)?.figure()?;
/// # Ok::<(), invariances_figure::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for another shape; [`Error::Invalid`] for NaN values, or a `max` that is not
/// positive and finite.
pub fn heat(values: &Tensor, max: f64) -> Result<Tensor> {
    let Ok((n, height, width)) = values.dims3() else {
        return Err(Error::shape(format!(
            "expected values of shape (n, height, width), found {:?}",
            values.dims()
        )));
    };
    let cpu = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let numbers: Vec<f32> = cpu.flatten_all()?.to_vec1()?;
    if numbers.iter().any(|x| x.is_nan()) || !(max.is_finite() && max > 0.0) {
        return Err(Error::invalid(format!(
            "expected values without NaN and a finite maximum above 0, found a maximum of {max}"
        )));
    }
    let mut pixels = vec![0f32; 3 * numbers.len()];
    let area = height * width;
    for (i, &value) in numbers.iter().enumerate() {
        for (c, colour) in tint(value / max as f32).into_iter().enumerate() {
            pixels[((i / area.max(1)) * 3 + c) * area + i % area] = colour / 127.5 - 1.0;
        }
    }
    Ok(Tensor::from_vec(
        pixels,
        (n, 3, height, width),
        &Device::Cpu,
    )?)
}

/// Returns the colour of a share in [0, 1]: red, green and blue from 0 to 255. Shares outside are
/// clamped.
pub(super) fn tint(share: f32) -> [f32; 3] {
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let below = (at as usize).min(STOPS.len() - 2);
    let part = at - below as f32;
    [0, 1, 2].map(|c| STOPS[below][c] * (1.0 - part) + STOPS[below + 1][c] * part)
}
