//! The distribution of the initial values of a parameter.

use crate::Rng;
use candle_core::Shape;

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Const(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between −bound and bound.
    Uniform(f64),
    /// PyTorch's default for linear and convolutional weights: uniform between −1/√fan_in and
    /// 1/√fan_in.
    FanIn,
    /// He et al. 2015, for layers before a leaky ReLU with a slope such as 0.2: normal with
    /// standard deviation √(2/fan_in).
    He,
}

impl Init {
    /// Returns the distribution of a parameter of this shape.
    pub(super) fn draw(self, shape: &Shape) -> Draw {
        let outputs = shape.dims().first().copied().unwrap_or(1).max(1);
        let fan_in = (shape.elem_count() / outputs).max(1) as f64;
        let normal = |deviation| Draw::Normal {
            mean: 0.0,
            deviation,
        };
        let uniform = |bound: f64| Draw::Uniform {
            low: -bound,
            high: bound,
        };
        match self {
            Self::Const(value) => Draw::Const(value),
            Self::Normal(deviation) => normal(deviation),
            Self::Uniform(bound) => uniform(bound),
            Self::FanIn => uniform(fan_in.sqrt().recip()),
            Self::He => normal((2.0 / fan_in).sqrt()),
        }
    }
}

/// A distribution of initial values, the same for every element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Draw {
    Const(f64),
    Normal { mean: f64, deviation: f64 },
    Uniform { low: f64, high: f64 },
}

impl Draw {
    pub(super) fn values(self, count: usize, rng: &mut Rng) -> Vec<f32> {
        match self {
            Self::Const(value) => vec![value as f32; count],
            Self::Normal { mean, deviation } => {
                let (mean, deviation) = (mean as f32, deviation as f32);
                let normal = (0..count).map(|_| rng.normal_f32() * deviation);
                // Adding 0 would change the sign of −0.
                if mean == 0.0 {
                    normal.collect()
                } else {
                    normal.map(|v| v + mean).collect()
                }
            }
            Self::Uniform { low, high } => {
                let (low, high) = (low as f32, high as f32);
                (0..count).map(|_| rng.range(low, high)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Params, Result};
    use candle_core::Var;

    #[test]
    fn initial_values_are_those_of_their_distribution() -> Result<()> {
        let at = Params::new(1).root();
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.1);
        let square = |t: &Var| -> Result<f64> {
            let all = crate::values(t)?;
            Ok((all.iter().map(|v| v * v).sum::<f64>() / all.len() as f64).sqrt())
        };
        let shape = (16, 8, 3, 3);
        near(square(&at.get(shape, "normal", Init::Normal(0.3))?)?, 0.3);
        let fan_in = 72.0f64;
        near(
            square(&at.get(shape, "he", Init::He)?)?,
            (2.0 / fan_in).sqrt(),
        );
        let bound = fan_in.sqrt().recip();
        let uniform = at.get(shape, "fan_in", Init::FanIn)?;
        near(square(&uniform)?, bound / 3f64.sqrt());
        assert!(
            crate::values(&uniform)?
                .iter()
                .all(|v| v.abs() <= bound + 1e-6)
        );
        // The generator of a name alone decides its values.
        let mut rng = at.rng("normal");
        let first = f64::from(rng.normal_f32() * 0.3);
        let found = crate::values(at.get(shape, "normal", Init::Normal(0.3))?.as_tensor())?[0];
        assert_eq!(found, first);
        Ok(())
    }
}
