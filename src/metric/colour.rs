//! Measurement of the foreground and background colour of images.

use crate::ops::values;
use crate::{Error, Result};
use candle_core::Tensor;
use rayon::prelude::*;

/// The fraction of an image's pixels that certainly belong to the foreground: even the thinnest
/// digit has more pixels of full colour.
const CORE: f32 = 0.01;

/// Measures the foreground and background colour of each image, for samples with unknown factors
/// of variation.
///
/// `images` is (n, 3, height, width) in [−1, 1]; values outside are clamped. Returns the
/// foreground and the background colour, each (n, 3), f32 in [0, 1], on the images' device.
///
/// Each image is measured separately:
/// - **Background**: the per-channel median of a frame along the border. The frame's width is
///   1/16 of the shorter side, at least one pixel. A stroke that touches the border does not
///   change the median.
/// - **Foreground**: let d be a pixel's Euclidean distance in RGB from the background, and D the
///   distance that 1 % of the pixels reach. The foreground is the mean of all pixels with weights
///   (d − 0.9 D) / 0.1 D, clamped to [0, 1]. Edge pixels mix both colours, have less than 0.9 D
///   and get weight 0. A few outliers cannot increase D.
///
/// For an image of a single colour, both results are that colour. In a blurred image, strokes
/// that are thinner than the blur have their full colour nowhere. The measured foreground is then
/// closer to the background than the true foreground colour.
///
/// ```
/// use invariances::{metric::measure_colours, prelude::*};
/// let batch = Digits::strokes(32, 0)?.batch(Split::Test, 0, 8)?;
/// let (foreground, background) = measure_colours(&batch.images)?;
/// let known = batch.factors.foreground()[0][0];
/// assert!((foreground.to_vec2::<f32>()?[0][0] - known).abs() < 0.05);
/// assert_eq!(background.dims(), [8, 3]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for another shape, and for no images or pixels; [`Error::Invalid`] for a value
/// that is NaN or infinite.
pub fn measure_colours(images: &Tensor) -> Result<(Tensor, Tensor)> {
    let (count, height, width) = match images.dims() {
        &[n, 3, h, w] if n * h * w > 0 => (n, h, w),
        other => {
            return Err(Error::shape(format!(
                "expected images of shape (n, 3, height, width) with at least one pixel, found \
                 {other:?}"
            )));
        }
    };
    let device = images.device();
    let mut pixels: Vec<f32> = values(images)?.into_iter().map(|v| v as f32).collect();
    let area = height * width;
    let colours: Vec<Result<_>> = pixels
        .par_chunks_mut(3 * area)
        .enumerate()
        .map(|(n, image)| {
            if let Some(value) = image.iter().find(|v| !v.is_finite()) {
                return Err(Error::invalid(format!(
                    "expected finite pixels, found {value} in image {n}: the colours cannot be \
                     measured"
                )));
            }
            // A decoder's output may exceed the range slightly or by orders of magnitude.
            for value in image.iter_mut() {
                *value = value.clamp(-1.0, 1.0);
            }
            Ok(colours_of(image, height, width))
        })
        .collect();
    // The error names the first invalid image, regardless of the order in which threads finish.
    let colours: Result<Vec<_>> = colours.into_iter().collect();
    let (foreground, background): (Vec<_>, Vec<_>) = colours?.into_iter().unzip();
    let tensor = |colours: Vec<[f32; 3]>| {
        let levels: Vec<f32> = colours
            .iter()
            .flatten()
            .map(|c| to_unit_range(*c))
            .collect();
        Ok::<_, Error>(Tensor::from_vec(levels, (count, 3), device)?)
    };
    Ok((tensor(foreground)?, tensor(background)?))
}

/// Maps [−1, 1] to [0, 1].
fn to_unit_range(value: f32) -> f32 {
    (0.5 * value + 0.5).clamp(0.0, 1.0)
}

/// Returns the foreground and background of one image, in the image's value range.
fn colours_of(image: &[f32], height: usize, width: usize) -> ([f32; 3], [f32; 3]) {
    let area = height * width;
    let planes = [
        &image[..area],
        &image[area..2 * area],
        &image[2 * area..3 * area],
    ];

    let frame = (height.min(width) / 16).max(1);
    let on_frame = |i: usize| {
        let (y, x) = (i / width, i % width);
        y.min(height - 1 - y) < frame || x.min(width - 1 - x) < frame
    };
    let background = planes.map(|plane| {
        let mut border: Vec<f32> = (0..area)
            .filter(|&i| on_frame(i))
            .map(|i| plane[i])
            .collect();
        let middle = border.len() / 2;
        *border.select_nth_unstable_by(middle, f32::total_cmp).1
    });

    let distances: Vec<f32> = (0..area)
        .map(|i| {
            let square = |c: usize| (planes[c][i] - background[c]) * (planes[c][i] - background[c]);
            (square(0) + square(1) + square(2)).sqrt()
        })
        .collect();
    let core = ((area as f32 * CORE) as usize).clamp(1, area);
    let mut sorted = distances.clone();
    let quantile = *sorted.select_nth_unstable_by(area - core, f32::total_cmp).1;
    if quantile <= 0.0 {
        return (background, background);
    }
    let mut sum = [0.0f64; 3];
    let mut total = 0.0f64;
    for (i, distance) in distances.iter().enumerate() {
        let weight = f64::from(((distance / quantile - 0.9) / 0.1).clamp(0.0, 1.0));
        total += weight;
        for c in 0..3 {
            sum[c] += weight * f64::from(planes[c][i]);
        }
    }
    (sum.map(|s| (s / total) as f32), background)
}
