//! Metrics of sequences: the change between video frames, and the unevenness of interpolation
//! paths.

use crate::ops::{host, scalar, values};
use crate::{Error, Result};
use candle_core::Tensor;

/// Measures the motion of a video: the root mean square difference between consecutive frames,
/// over all pixels and frames. `frames` is (count, channels, h, w).
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::frame_step};
/// let still = Tensor::ones((3, 3, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
/// assert_eq!(frame_step(&still)?, 0.0);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for fewer than two frames.
pub fn frame_step(frames: &Tensor) -> Result<f64> {
    let count = frames.dims().first().copied().unwrap_or(0);
    if count < 2 {
        return Err(Error::shape(format!(
            "expected at least two frames, found {count}"
        )));
    }
    let frames = host(frames)?;
    let step = (frames.narrow(0, 1, count - 1)? - frames.narrow(0, 0, count - 1)?)?;
    Ok(scalar(&step.sqr()?.mean_all()?)?.sqrt())
}

/// Measures the unevenness of paths: the length of the longest step divided by the mean step
/// length, for each row of the batch.
///
/// `points` are the points of the paths in order, each (batch, n). The result is 1 if all steps
/// have the same length, and equals the number of steps if the whole path is a single jump. It is
/// also 1 if nothing moves.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::unevenness};
/// let at = |x: f32, y: f32| Tensor::new(&[[x], [y]], &Device::Cpu);
/// assert_eq!(unevenness(&[at(0.0, 0.0)?, at(1.0, 0.0)?, at(2.0, 4.0)?])?, [1.0, 2.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for fewer than two points; [`Error::Tensor`] if their shapes differ.
pub fn unevenness(points: &[Tensor]) -> Result<Vec<f64>> {
    if points.len() < 2 {
        return Err(Error::invalid(format!(
            "expected at least two points of a path, found {}",
            points.len()
        )));
    }
    let mut steps: Vec<Vec<f64>> = Vec::new();
    for pair in points.windows(2) {
        let step = host(&(&pair[1] - &pair[0])?)?;
        steps.push(values(&step.sqr()?.sum(1)?.sqrt()?)?);
    }
    let rows = 0..steps[0].len();
    Ok(rows
        .map(|row| {
            let all: Vec<f64> = steps.iter().map(|step| step[row]).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            match mean > 0.0 {
                true => all.iter().fold(0.0, |max: f64, s| max.max(*s)) / mean,
                false => 1.0,
            }
        })
        .collect())
}
