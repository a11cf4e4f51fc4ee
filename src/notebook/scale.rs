//! [`Scale`], the size of a notebook's experiments.

use crate::Error;
use std::fmt;
use std::str::FromStr;

/// The scale decides sizes, steps and data sources in every notebook. Nothing else differs
/// between scales.
///
/// ```
/// use invariances::notebook::Scale;
/// let scale: Scale = "quick".parse()?;
/// assert_eq!(scale.pick(10, 2_500, 20_000, 100_000), 2_500);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scale {
    /// Synthetic data and a few steps. Every cell runs, but the results are not meaningful.
    Smoke,
    /// Synthetic data and the networks shipped with the project: minutes on a laptop.
    #[default]
    Quick,
    /// Real data and networks from the hub, for a workstation.
    Real,
    /// The paper's sizes, for a GPU.
    Paper,
}

impl Scale {
    /// The value for this scale.
    pub fn pick<T>(self, smoke: T, quick: T, real: T, paper: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Real => real,
            Self::Paper => paper,
        }
    }

    /// Its name in `INVARIANCES_SCALE`.
    pub fn name(self) -> &'static str {
        self.pick("smoke", "quick", "real", "paper")
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [Self::Smoke, Self::Quick, Self::Real, Self::Paper];
        let text = text.trim();
        let found = all
            .into_iter()
            .find(|s| s.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            Error::invalid(format!(
                "expected a scale of smoke, quick, real or paper, found “{text}”"
            ))
        })
    }
}
