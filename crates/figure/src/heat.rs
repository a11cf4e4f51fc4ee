use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Where the colours of [`heat`] change: white, the palette's sky and blue, ink. Their lightness falls all the way, so
/// that they are told apart in grey and by the colour-blind too.
const STOPS: [[f32; 3]; 5] = [
    [255.0, 255.0, 255.0],
    [166.0, 215.0, 240.0],
    [56.0, 150.0, 200.0],
    [0.0, 84.0, 140.0],
    [20.0, 24.0, 48.0],
];

/// Numbers as colours: values (n, height, width) from 0 (white) to `most` (nearly black) as images
/// (n, 3, height, width) for an [`ImageGrid`](super::ImageGrid). Beyond either end the colour stays.
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
/// [`Error::Invalid`] for another shape, values that are not numbers, or a `most` that is not above 0.
pub fn heat(values: &Tensor, most: f64) -> Result<Tensor> {
    let Ok((n, height, width)) = values.dims3() else {
        return Err(Error::invalid(format!(
            "values to colour must be (n, height, width), found {:?}",
            values.dims()
        )));
    };
    let cpu = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let numbers: Vec<f32> = cpu.flatten_all()?.to_vec1()?;
    if numbers.iter().any(|x| x.is_nan()) || !(most.is_finite() && most > 0.0) {
        return Err(Error::invalid(format!(
            "values to colour must be numbers, and the largest colour belong to one above 0, found {most}"
        )));
    }
    let mut pixels = vec![0f32; 3 * numbers.len()];
    let area = height * width;
    for (i, &value) in numbers.iter().enumerate() {
        for (c, colour) in tint(value / most as f32).into_iter().enumerate() {
            pixels[((i / area.max(1)) * 3 + c) * area + i % area] = colour / 127.5 - 1.0;
        }
    }
    Ok(Tensor::from_vec(
        pixels,
        (n, 3, height, width),
        &Device::Cpu,
    )?)
}

/// The colour of a share in [0, 1], red, green, blue up to 255.
pub(super) fn tint(share: f32) -> [f32; 3] {
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let below = (at as usize).min(STOPS.len() - 2);
    let part = at - below as f32;
    [0, 1, 2].map(|c| STOPS[below][c] * (1.0 - part) + STOPS[below + 1][c] * part)
}
