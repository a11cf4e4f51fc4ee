//! Datasets: synthetic images with known factors of variation, and images read from files.
//!
//! Every synthetic dataset here is seeded and addressed by index: sample `i` of a split depends
//! only on the settings, the seed, the split and `i`. It does not depend on the batch that
//! contains it or on the number of threads.

#![forbid(unsafe_code)]

mod ahead;
mod batch;
mod batches;
mod columns;
mod creatures;
mod crop;
mod dataset;
mod decode;
mod digits;
mod faces;
mod folder;
mod glyphs;
mod images;
mod jpeg;
mod labels;
mod memory;
mod paint;
mod parquet;
mod photographs;
mod plane;
mod readable;
mod shards;
mod strokes;

pub use ahead::Ahead;
pub use batch::{Batch, Factors, Split};
pub use batches::{Batches, Order};
pub use columns::{ColumnName, ImageColumns};
pub use creatures::{Creature, Creatures, SHAPES, Style, TEXTURES};
pub use crop::random_crops;
pub use dataset::{Attribute, Dataset};
pub use digits::Digits;
pub use faces::{Face, Faces, HAIR_STYLES, Person};
pub use folder::{FolderOptions, FolderReport};
pub use images::Images;
pub use photographs::Photographs;
pub use plane::Plane;
pub use readable::Unreadable;

pub use invariances_core::{Error, Result};

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
