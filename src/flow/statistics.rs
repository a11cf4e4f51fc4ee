//! Statistics of the batch that initialises an ActNorm, and detection of constant columns.

use super::check_finite;
use crate::ops::{epsilon, values, widened};
use crate::{Error, Result};
use candle_core::Tensor;

/// A column is constant if its standard deviation is below this fraction of the median standard
/// deviation of the columns that vary.
const RELATIVE: f64 = 1e-4;

/// Rounding errors in a column, in units of the dtype's machine epsilon times the magnitude of
/// the values.
const ROUNDING: f64 = 4.0;

/// The mean and the initial scale of each channel.
pub(super) struct Statistics {
    pub(super) mean: Vec<f64>,
    pub(super) scale: Vec<f64>,
    /// Constant channels, whose scale is taken from the other channels.
    pub(super) constant: Vec<usize>,
}

impl Statistics {
    /// Computes the statistics of a batch (batch, channels) or (batch, channels, height, width).
    pub(super) fn of(x: &Tensor) -> Result<Self> {
        check_finite(x, "the batch that initialises an ActNorm")?;
        let epsilon = epsilon(x.dtype());
        let x = x.detach().transpose(0, 1)?.flatten_from(1)?;
        let x = widened(&x)?;
        let count = x.dim(1)?;
        if count < 2 {
            return Err(Error::shape(format!(
                "expected at least 2 values per channel to initialise an ActNorm from their \
                 standard deviation, found {count}: use a larger batch"
            )));
        }
        // Values are taken relative to the first one. In a sum of large values, a column far from
        // zero would lose its variance, and a constant column would get a spurious variance.
        let first = x.narrow(1, 0, 1)?;
        let x = x.broadcast_sub(&first)?;
        let offset = x.mean_keepdim(1)?;
        let squares = x.broadcast_sub(&offset)?.sqr()?.sum_keepdim(1)?;
        let mean = values(&(first + offset)?)?;
        let deviation: Vec<f64> = values(&squares)?
            .iter()
            .map(|s| (s / (count - 1) as f64).sqrt())
            .collect();
        let magnitudes = mean.iter().zip(&deviation).map(|(m, d)| m.hypot(*d));
        let magnitude = median(magnitudes.collect()).unwrap_or(0.0);
        let rounding = |m: f64| ROUNDING * epsilon * m.abs().max(magnitude);
        let varies = mean.iter().zip(&deviation);
        let varies = varies.filter(|(m, d)| **d > rounding(**m));
        let typical = median(varies.map(|(_, d)| *d).collect());
        let floor = typical.unwrap_or(0.0) * RELATIVE;
        let (mut scale, mut constant) = (Vec::new(), Vec::new());
        for (channel, (m, d)) in mean.iter().zip(&deviation).enumerate() {
            if *d > rounding(*m) && *d >= floor {
                scale.push((d + 1e-6).recip());
            } else {
                constant.push(channel);
                scale.push(typical.map_or(1.0, |t| (t + 1e-6).recip()));
            }
        }
        Ok(Self {
            mean,
            scale,
            constant,
        })
    }
}

/// Returns the median: for an even count the mean of the middle two, for no values `None`.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some(0.5 * (values[middle - 1] + values[middle])),
        _ => Some(values[middle]),
    }
}

/// Returns the columns of codes (batch, columns), or the channels of maps (batch, channels,
/// height, width), that are constant in this batch. Examples are units that are never active and
/// latent dimensions that a posterior does not use.
///
/// A column is constant if its standard deviation is at most the rounding error (4 machine
/// epsilons of the dtype, relative to the larger of the column's mean and the median magnitude of
/// all columns). It is also constant if its standard deviation is below 10⁻⁴ times the median
/// standard deviation of the columns above the rounding error.
///
/// ```
/// use invariances::{candle_core::{Device, Tensor}, flow::constant_columns};
/// let codes = Tensor::new(&[[1f32, 0.0, 2.0], [3.0, 0.0, 1.0]], &Device::Cpu)?;
/// assert_eq!(constant_columns(&codes)?, [1]);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for fewer than two dimensions and for only one value per column;
/// [`Error::Invalid`] for NaN or infinity.
pub fn constant_columns(codes: &Tensor) -> Result<Vec<usize>> {
    if codes.rank() < 2 {
        return Err(Error::shape(format!(
            "expected codes of shape (batch, columns), found {:?}: add a batch dimension with \
             `unsqueeze(0)`",
            codes.dims()
        )));
    }
    Ok(Statistics::of(codes)?.constant)
}

/// Returns an error if every column of the codes is constant.
pub(super) fn check_varies(codes: &Tensor) -> Result<()> {
    if constant_columns(codes)?.len() < codes.dim(1)? {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected codes that differ from each other, found {} codes in which every column is \
         constant: initialise with codes of different images, and check that the encoder's output \
         depends on them",
        codes.dim(0)?
    )))
}

/// Returns the notice about constant channels that is printed.
pub(super) fn notice(what: &str, constant: &[usize], channels: usize) -> String {
    const LISTED: usize = 12;
    let listed = &constant[..LISTED.min(constant.len())];
    let mut names: Vec<String> = listed.iter().map(ToString::to_string).collect();
    if constant.len() > LISTED {
        names.push(format!("{} more", constant.len() - LISTED));
    }
    let scale = if constant.len() == channels {
        "their scale is 1"
    } else {
        "their scale is that of the other columns"
    };
    format!(
        "notice: {} of {channels} columns of {what} are constant in the batch that initialises \
         the ActNorm (columns {}, counted from 0): {scale}. If they vary in other data, \
         initialise with a larger batch.",
        constant.len(),
        names.join(", ")
    )
}
