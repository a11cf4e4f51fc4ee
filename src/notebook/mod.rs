//! The notebooks' settings, outputs and subjects of study.
//!
//! [`Lab`] contains a notebook's settings and saves its figures and [`Claim`]s. Each claim has a
//! [`Verdict`], decided by the difference between what was [`Measured`] and what was [`Expected`].
//! [`Scale`] decides sizes, steps and data sources. [`Subject`] is the network under study with
//! everything needed to study it. [`Study`] contains claims measured over several seeds.
//! [`Progress`] shows the progress of a long cell.

mod builder;
mod claim;
mod comparison;
mod environment;
mod expected;
mod format;
mod images;
mod lab;
mod measured;
mod output;
mod progress;
mod repeated;
mod scale;
mod stored;
mod study;
mod subject;
mod verdict;

pub use builder::ClaimBuilder;
pub use claim::{Claim, Claims};
pub use environment::chosen_device;
pub use expected::Expected;
pub use lab::Lab;
pub use measured::{Compared, Difference, Measured};
pub use progress::Progress;
pub use repeated::{OverSeeds, Repeated};
pub use scale::Scale;
pub use stored::correct_claims;
pub use study::{Conditions, SeedResult, Study};
pub use subject::Subject;
pub use verdict::{Counts, Direction, Verdict, with_history};

#[doc(no_inline)]
pub use crate::recipes::Sources;
