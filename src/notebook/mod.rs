//! The notebooks' settings, outputs and subjects of study.
//!
//! [`Lab`] contains a notebook's settings and saves its figures and [`Claim`]s. [`Scale`] decides
//! sizes, steps and data sources. [`Subject`] is the network under study with everything needed
//! to study it. [`Study`] contains claims measured over several seeds. [`Progress`] shows the
//! progress of a long cell.

mod claim;
mod comparison;
mod environment;
mod images;
mod lab;
mod output;
mod progress;
mod scale;
mod study;
mod subject;

pub use claim::{Claim, ClaimBuilder, Claims, Expected};
pub use environment::chosen_device;
pub use lab::Lab;
pub use progress::Progress;
pub use scale::Scale;
pub use study::{Conditions, Repeated, SeedResult, Study};
pub use subject::Subject;

#[doc(no_inline)]
pub use crate::recipes::Sources;
