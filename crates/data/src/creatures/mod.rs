//! Synthetic creatures with shape and texture, used instead of animal photographs and stylized
//! ImageNet.

mod creature;
mod draw;
mod shapes;
mod textures;

pub use creature::{Creature, Style};
pub use shapes::SHAPES;
pub use textures::TEXTURES;

use super::dataset::{self, Attribute, Dataset, check_size, indices, unknown_concept};
use super::{Batch, Factors, Split};
use crate::Result;
use candle_core::{Device, Tensor};
use invariances_ops::Rng;

/// A synthetic dataset of creatures with ten shapes and ten textures. It replaces the animals and
/// stylized ImageNet (arXiv 1811.12231) of the paper's Figures 2, 5 and 6.
///
/// In the natural pairing each shape has its own texture, so that a network may learn either. In
/// the stylized version the texture is independent of the shape, so that only the shape
/// determines the class.
///
/// | | shape | texture |
/// | --- | --- | --- |
/// | [`Creatures::new`] | random | that of the shape |
/// | [`Creatures::stylized`] | the same | random |
/// | [`Creatures::shown`] as [`Style::Texture`] | not visible | fills the image |
/// | [`Creatures::shown`] as [`Style::Sketch`] | a pencil outline | not visible |
///
/// Sample `i` is the same creature in all versions. The labels are the shapes. A creature can
/// also be created and changed by the caller:
///
/// ```
/// use invariances_data::*;
/// let creatures = Creatures::new(64, 0)?;
/// let creature = creatures.creature(Split::Test, 0);
/// let other = Creature { texture: (creature.texture + 1) % 10, ..creature };
/// let batch = creatures.draw(&[creature, other])?;
/// let labels = batch.labels.to_vec1::<u32>()?;
/// assert_eq!(labels[0], labels[1]);
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Creatures {
    size: usize,
    seed: u64,
    stylized: bool,
    style: Style,
}

/// Version of the dataset. It changes whenever the images change, so that networks trained on
/// different versions have different identifiers.
const REVISION: u32 = 1;

/// A factor that two images can share, and the function that copies it to the second.
type Concept = (&'static str, fn(&Creature, &mut Creature));

const CONCEPTS: [Concept; 13] = [
    ("shape", |a, b| b.shape = a.shape),
    ("texture", |a, b| b.texture = a.texture),
    ("build", |a, b| b.build = a.build),
    ("limbs", |a, b| b.limbs = a.limbs),
    ("head", |a, b| b.head = a.head),
    ("bend", |a, b| b.bend = a.bend),
    ("facing", |a, b| b.facing = a.facing),
    ("rotation", |a, b| b.rotation = a.rotation),
    ("scale", |a, b| b.scale = a.scale),
    ("colour", |a, b| b.colour = a.colour),
    ("second", |a, b| b.second = a.second),
    ("background", |a, b| b.background = a.background),
    ("light", |a, b| b.light = a.light),
];

impl Creatures {
    /// Creates creatures of `size`×`size` pixels in which each shape has its own texture.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] unless `size` is from 32 to 128.
    pub fn new(size: usize, seed: u64) -> Result<Self> {
        check_size("creatures", size, 32)?;
        Ok(Self {
            size,
            seed,
            stylized: false,
            style: Style::Painted,
        })
    }

    /// Returns the same creatures with textures that are independent of the shape.
    pub fn stylized(&self) -> Self {
        Self {
            stylized: true,
            ..self.clone()
        }
    }

    /// Returns the same creatures in another style: painted, texture only, or as a sketch.
    pub fn shown(&self, style: Style) -> Self {
        Self {
            style,
            ..self.clone()
        }
    }

    /// Returns the factors of sample `index` of a split, which can be changed and rendered.
    pub fn creature(&self, split: Split, index: u64) -> Creature {
        self.sample(&format!("creatures/{}", split.name()), index)
    }

    /// Renders these creatures; the labels are their shapes.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if there are no creatures, or if memory is insufficient.
    pub fn draw(&self, creatures: &[Creature]) -> Result<Batch> {
        let (images, _) = dataset::render(
            self.size,
            creatures.len(),
            || (),
            |k, pixels, ()| draw::draw(&creatures[k], self.size, pixels),
        )?;
        let labels: Vec<u32> = creatures.iter().map(|c| c.shape % 10).collect();
        Ok(Batch {
            images,
            labels: Tensor::from_vec(labels, creatures.len(), &Device::Cpu)?,
            factors: factors(creatures)?,
        })
    }

    fn sample(&self, stream: &str, index: u64) -> Creature {
        let mut creature = Creature::random(&mut Rng::at(self.seed, stream, index));
        creature.style = self.style;
        if self.stylized {
            // The texture has its own random stream, so that all other factors are those of the
            // natural pairing.
            let mut rng = Rng::at(self.seed, &format!("{stream}/texture"), index);
            creature.texture = rng.below(TEXTURES.len()) as u32;
        }
        creature
    }
}

impl Dataset for Creatures {
    fn size(&self) -> usize {
        self.size
    }

    fn id(&self) -> String {
        let pairing = if self.stylized { "stylized" } else { "natural" };
        let style = match self.style {
            Style::Painted => "painted",
            Style::Texture => "texture",
            Style::Sketch => "sketch",
        };
        format!(
            "creatures-{REVISION}-{pairing}-{style}-size{}-seed{}",
            self.size, self.seed
        )
    }

    fn classes(&self) -> Vec<String> {
        SHAPES.map(String::from).to_vec()
    }

    fn attributes(&self) -> Vec<Attribute> {
        vec![
            Attribute::class("shape", &SHAPES),
            Attribute::class("texture", &TEXTURES),
            Attribute::new("facing", &["left", "right"], &[0.0]),
        ]
    }

    fn concepts(&self) -> Vec<String> {
        CONCEPTS.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        let creatures: Vec<_> = indices.iter().map(|&i| self.creature(split, i)).collect();
        self.draw(&creatures)
    }

    fn pairs(
        &self,
        split: Split,
        start: u64,
        count: usize,
        concept: &str,
    ) -> Result<(Batch, Batch)> {
        let (_, share) = CONCEPTS
            .iter()
            .find(|(name, _)| *name == concept)
            .ok_or_else(|| unknown_concept(concept, self))?;
        let stream = |side: &str| format!("creatures/pairs/{}/{side}", split.name());
        let (first, second) = (stream("first"), stream("second"));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for index in indices(start, count)? {
            let (one, mut other) = (self.sample(&first, index), self.sample(&second, index));
            share(&one, &mut other);
            if !self.stylized {
                // In the natural pairing, images that share the shape also share the texture, and
                // vice versa.
                if concept == "texture" {
                    other.shape = other.texture;
                } else {
                    other.texture = other.shape;
                }
            }
            a.push(one);
            b.push(other);
        }
        Ok((self.draw(&a)?, self.draw(&b)?))
    }
}

fn factors(creatures: &[Creature]) -> Result<Factors> {
    let whole = |f: &dyn Fn(&Creature) -> u32| creatures.iter().map(f).collect();
    let real = |f: &dyn Fn(&Creature) -> f32| creatures.iter().map(f).collect();
    let factors = Factors::new()
        .with_whole("shape", whole(&|c| c.shape % 10))?
        .with_whole("texture", whole(&|c| c.texture % 10))?
        .with_real("build", real(&|c| c.build))?
        .with_real("limbs", real(&|c| c.limbs))?
        .with_real("head", real(&|c| c.head))?
        .with_real("bend", real(&|c| c.bend))?
        .with_real("facing", real(&|c| c.facing))?
        .with_real("rotation", real(&|c| c.rotation))?
        .with_real("scale", real(&|c| c.scale))?
        .with_real("shift_x", real(&|c| c.shift[0]))?
        .with_real("shift_y", real(&|c| c.shift[1]))?
        .with_real("texture_scale", real(&|c| c.texture_scale))?
        .with_real("texture_turn", real(&|c| c.texture_turn))?
        .with_real("light", real(&|c| c.light))?;
    let colour = |f: &dyn Fn(&Creature) -> [f32; 3]| creatures.iter().map(f).collect::<Vec<_>>();
    factors
        .with_colour("colour", &colour(&|c| c.colour))?
        .with_colour("second", &colour(&|c| c.second))?
        .with_colour("background", &colour(&|c| c.background))
}
