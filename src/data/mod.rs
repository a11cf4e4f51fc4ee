//! Images with known factors, and images from files.
//!
//! Every drawn data set here is seeded and addressed by index: sample `i` of a split depends on the settings, the
//! seed, the split and `i` alone, not on the batch that it is asked in nor on the number of threads.

mod ahead;
mod batch;
mod batches;
mod creatures;
mod crop;
mod decode;
mod digits;
mod faces;
mod folder;
mod glyphs;
mod images;
mod paint;
mod parquet;
mod photographs;
mod plane;
mod shards;
mod strokes;
mod world;

pub use ahead::Ahead;
pub use batch::{Batch, Factors, Split};
pub use batches::{Batches, Order};
pub use creatures::{Creature, Creatures, SHAPES, Style, TEXTURES};
pub use crop::random_crops;
pub use digits::Digits;
pub use faces::{Face, Faces, HAIR_STYLES, Person};
pub use images::{ImageColumns, Images};
pub use photographs::Photographs;
pub use plane::Plane;
pub use world::{Attribute, World};
