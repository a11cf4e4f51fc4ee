//! The attributes that batches contain as factors: numbers and booleans.

use polars::prelude::*;

#[derive(Debug)]
pub(super) struct Number {
    pub(super) name: String,
    pub(super) values: Numbers,
}

#[derive(Debug)]
pub(super) enum Numbers {
    Whole(Vec<u32>),
    Real(Vec<f32>),
}

/// Returns the attributes that are numbers or booleans. A column is whole if all its values are
/// integers from 0 to 2³² − 1.
pub(super) fn numbers(attributes: &[Series]) -> Vec<Number> {
    let number = |series: &Series| {
        let is_number = series.dtype().is_primitive_numeric() || series.dtype().is_bool();
        if !is_number {
            return None;
        }
        let values = if series.dtype().is_float() {
            None
        } else {
            let whole = series.cast(&DataType::UInt32).ok()?;
            (whole.null_count() == 0)
                .then(|| whole.u32().ok()?.iter().collect::<Option<Vec<u32>>>())
        };
        let values = match values.flatten() {
            Some(whole) => Numbers::Whole(whole),
            None => {
                let real = series.cast(&DataType::Float32).ok()?;
                let real = real.f32().ok()?.iter().map(|v| v.unwrap_or(f32::NAN));
                Numbers::Real(real.collect())
            }
        };
        Some(Number {
            name: series.name().to_string(),
            values,
        })
    };
    attributes.iter().filter_map(number).collect()
}
