use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// How much a film moves: the root of the mean squared difference from a frame to the next, over all pixels and frames. Frames are
/// (count, channels, h, w).
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::frame_step};
/// let still = Tensor::ones((3, 3, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
/// assert_eq!(frame_step(&still)?, 0.0);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for fewer than two frames.
pub fn frame_step(frames: &Tensor) -> Result<f64> {
    let count = frames.dims().first().copied().unwrap_or(0);
    if count < 2 {
        return Err(Error::invalid(format!(
            "a step leads from a frame to the next: expected at least two frames, found {count}"
        )));
    }
    let frames = frames.to_dtype(DType::F64)?;
    let step = (frames.narrow(0, 1, count - 1)? - frames.narrow(0, 0, count - 1)?)?;
    Ok(step.sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt())
}

/// How uneven ways are: the longest of a way's steps over their mean, for each of its rows. `points` are the places on the ways, one after the
/// other, each (batch, n). 1 where all steps are of one length, as many as there are steps where all of the way is a single jump; 1 as well
/// where nothing moves.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, metric::unevenness};
/// let at = |x: f32, y: f32| Tensor::new(&[[x], [y]], &Device::Cpu);
/// assert_eq!(unevenness(&[at(0.0, 0.0)?, at(1.0, 0.0)?, at(2.0, 4.0)?])?, [1.0, 2.0]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for fewer than two points; [`Error::Tensor`] where their shapes differ.
pub fn unevenness(points: &[Tensor]) -> Result<Vec<f64>> {
    if points.len() < 2 {
        return Err(Error::invalid(format!(
            "a way needs at least two points, found {}",
            points.len()
        )));
    }
    let mut steps: Vec<Vec<f64>> = Vec::new();
    for pair in points.windows(2) {
        let step = (&pair[1] - &pair[0])?.to_dtype(DType::F64)?;
        steps.push(step.sqr()?.sum(1)?.sqrt()?.to_vec1()?);
    }
    let rows = 0..steps[0].len();
    Ok(rows
        .map(|row| {
            let all: Vec<f64> = steps.iter().map(|step| step[row]).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            match mean > 0.0 {
                true => all.iter().fold(0.0, |most: f64, s| most.max(*s)) / mean,
                false => 1.0,
            }
        })
        .collect())
}
