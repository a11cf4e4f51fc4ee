//! The factors of one creature, and their random distribution.

use super::super::paint::hsv;
use super::shapes::SHAPES;
use invariances_ops::Rng;

/// The style in which a creature is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// The creature with its texture, in front of a background.
    #[default]
    Painted,
    /// No creature: its texture, in its colours, fills the image.
    Texture,
    /// A pencil outline on white: no texture, no colour.
    Sketch,
}

/// One creature: all factors that determine its image.
///
/// Factors that vary within a class are numbers in [−1, 1]; 0 is the average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Creature {
    /// Index of its shape in [`SHAPES`](super::SHAPES), modulo 10.
    pub shape: u32,
    /// Index of its texture in [`TEXTURES`](super::TEXTURES), modulo 10.
    pub texture: u32,
    /// The style in which it is shown.
    pub style: Style,
    /// From slim to stout.
    pub build: f32,
    /// From short to long legs, fins, ears or wings.
    pub limbs: f32,
    /// From a small to a large head.
    pub head: f32,
    /// Posture of tail, neck or wings.
    pub bend: f32,
    /// Direction: to the left below 0, otherwise to the right.
    pub facing: f32,
    /// Rotation in turns, around 0.
    pub rotation: f32,
    /// Size, around 1.
    pub scale: f32,
    /// Offset from the image's centre, in image sides, right and down.
    pub shift: [f32; 2],
    /// The texture's first colour: red, green, blue in [0, 1].
    pub colour: [f32; 3],
    /// The texture's second colour.
    pub second: [f32; 3],
    /// Coarseness of the texture, around 1.
    pub texture_scale: f32,
    /// Rotation of the texture in turns, around 0.
    pub texture_turn: f32,
    /// Seed of the shapes in the background.
    pub grain: u32,
    /// The background colour.
    pub background: [f32; 3],
    /// Direction of the light, from left (−1) to right (1).
    pub light: f32,
}

fn lightness(c: [f32; 3]) -> f32 {
    0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]
}

impl Creature {
    /// Samples a creature with a random shape and that shape's texture. All other factors are
    /// independent of both. The position and the texture's scale and rotation vary little, so
    /// that a code can represent them; both can be set to any value.
    pub fn random(rng: &mut Rng) -> Self {
        let shape = rng.below(SHAPES.len()) as u32;
        let mut even = |bound: f32| rng.range(-bound, bound);
        let (build, limbs, head, bend) = (even(1.0), even(1.0), even(1.0), even(1.0));
        let (facing, rotation) = (even(1.0), even(0.02));
        let shift = [even(0.03), even(0.03)];
        let (texture_turn, light) = (even(0.006), even(1.0));
        let scale = rng.range(0.9, 1.08);
        let texture_scale = rng.range(0.97, 1.03);
        // One light and one dark colour; either may be the first colour.
        let pale = hsv(rng.f32(), rng.range(0.15, 0.6), rng.range(0.82, 1.0));
        let mut deep = hsv(rng.f32(), rng.range(0.4, 0.95), rng.range(0.25, 0.6));
        let gap = lightness(pale) - lightness(deep);
        if gap < 0.3 {
            deep = deep.map(|c| c * 0.55);
        }
        let swapped = rng.f32() < 0.5;
        let (colour, second) = if swapped { (deep, pale) } else { (pale, deep) };
        let background = hsv(rng.f32(), rng.range(0.1, 0.45), rng.range(0.55, 0.95));
        let grain = rng.below(1 << 24) as u32;
        Self {
            shape,
            texture: shape,
            style: Style::Painted,
            build,
            limbs,
            head,
            bend,
            facing,
            rotation,
            scale,
            shift,
            colour,
            second,
            texture_scale,
            texture_turn,
            grain,
            background,
            light,
        }
    }

    /// Returns the creature with all values limited to ranges that can be rendered, because the
    /// caller may set any value.
    pub(super) fn sane(&self) -> Self {
        let within = |v: f32, low: f32, high: f32| {
            if v.is_nan() {
                0.5 * (low + high)
            } else {
                v.clamp(low, high)
            }
        };
        let one = |v: f32| within(v, -1.0, 1.0);
        let rgb = |c: [f32; 3]| c.map(|v| within(v, 0.0, 1.0));
        Self {
            shape: self.shape % 10,
            texture: self.texture % 10,
            build: one(self.build),
            limbs: one(self.limbs),
            head: one(self.head),
            bend: one(self.bend),
            facing: one(self.facing),
            rotation: within(self.rotation, -0.5, 0.5),
            scale: within(self.scale, 0.2, 2.0),
            shift: self.shift.map(one),
            colour: rgb(self.colour),
            second: rgb(self.second),
            texture_scale: within(self.texture_scale, 0.3, 3.0),
            texture_turn: within(self.texture_turn, -0.5, 0.5),
            background: rgb(self.background),
            light: one(self.light),
            ..*self
        }
    }
}
