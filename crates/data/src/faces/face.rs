//! The factors of a face: those of the person, and those of one image.

use super::super::paint::hsv;
use invariances_ops::Rng;

/// Number of hair styles: short, parted, round curls, long, bob, bun, nearly bald, waves.
pub const HAIR_STYLES: u32 = 8;

/// The identity: all factors that are the same in every image of a person.
///
/// Factors of shape are numbers in [−1, 1]; 0 is the average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Person {
    /// The person's number; it does not change the image.
    pub number: u32,
    /// Narrow to wide head.
    pub width: f32,
    /// Narrow to broad jaw.
    pub jaw: f32,
    /// Round to long chin.
    pub chin: f32,
    /// Hollow to full cheeks.
    pub cheeks: f32,
    /// Low to high forehead.
    pub forehead: f32,
    /// Small to large ears.
    pub ears: f32,
    /// Close to distant eyes.
    pub eye_distance: f32,
    /// Small to large eyes.
    pub eye_size: f32,
    /// Outer corners down to up.
    pub eye_tilt: f32,
    /// High to low eyes.
    pub eye_height: f32,
    /// Thin to thick brows.
    pub brow_thickness: f32,
    /// Straight to arched brows.
    pub brow_arch: f32,
    /// Short to long nose.
    pub nose_length: f32,
    /// Narrow to wide nose.
    pub nose_width: f32,
    /// Narrow to wide mouth.
    pub mouth_width: f32,
    /// Thin to full lips.
    pub lips: f32,
    /// From light to dark skin, in [0, 1].
    pub skin: f32,
    /// From cool to warm skin.
    pub undertone: f32,
    /// Eye colour from brown over hazel, green and blue to grey, in [0, 1].
    pub eye_colour: f32,
    /// Index of the hair style, below [`HAIR_STYLES`].
    pub hair_style: u32,
    /// Amount of freckles, in [0, 1]; most people have none.
    pub freckles: f32,
}

/// One image of a person: the identity and all factors that may change between two images of the
/// same person.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Face {
    /// The identity.
    pub person: Person,
    /// Yaw to the left (−1) or right (1) of the image, at most 25°.
    pub yaw: f32,
    /// Pitch, up (−1) or down (1), at most 16°.
    pub pitch: f32,
    /// Roll to the left (−1) or right (1), at most 12°.
    pub roll: f32,
    /// Glasses: 0 none, 1 round, 2 square, 3 dark.
    pub glasses: u32,
    /// Hair colour from black over brown, chestnut, red and blond to platinum, in [0, 1].
    pub hair_colour: f32,
    /// Beard, from none (0) over stubble to a full beard (1).
    pub beard: f32,
    /// From a frown (−1) to a broad smile (1).
    pub smile: f32,
    /// Age from young (0) to old (1): lines, hollow cheeks, sagging features, grey brows and
    /// beard.
    pub age: f32,
    /// Gender-like shape, from feminine (−1) to masculine (1): jaw, brows, neck, lips, lashes. It
    /// does not include the hair style.
    pub masculine: f32,
    /// Direction of the light, from left (−1) to right (1).
    pub light: f32,
    /// Exposure; random faces have 0.8 to 1.08.
    pub brightness: f32,
    /// The background colour: red, green, blue in [0, 1].
    pub background: [f32; 3],
    /// The colour of the shirt.
    pub shirt: [f32; 3],
    /// Size of the head; random faces have 0.92 to 1.08.
    pub scale: f32,
    /// Offset of the head from its default position, in image sides, right and down.
    pub shift: [f32; 2],
}

/// Samples an approximately normal number with standard deviation 0.45, within ±1.
fn bell(rng: &mut Rng) -> f32 {
    let sum = rng.f32() + rng.f32() + rng.f32();
    ((sum - 1.5) * 0.9).clamp(-1.0, 1.0)
}

/// The name of a factor of a person, and the function that returns its value.
type Trait = (&'static str, fn(&Person) -> f32);

impl Person {
    /// Samples a random person.
    pub fn random(rng: &mut Rng) -> Self {
        let mut even = || rng.range(-1.0, 1.0);
        Self {
            number: 0,
            width: even(),
            jaw: even(),
            chin: even(),
            cheeks: even(),
            forehead: even(),
            ears: even(),
            eye_distance: even(),
            eye_size: even(),
            eye_tilt: even(),
            eye_height: even(),
            brow_thickness: even(),
            brow_arch: even(),
            nose_length: even(),
            nose_width: even(),
            mouth_width: even(),
            lips: even(),
            undertone: even(),
            skin: rng.f32(),
            eye_colour: rng.f32(),
            hair_style: rng.below(HAIR_STYLES as usize) as u32,
            freckles: (3.0 * rng.f32() - 2.0).max(0.0),
        }
    }

    /// Returns the names and values of a person's factors for a table of factors.
    pub(super) fn traits() -> [Trait; 20] {
        [
            ("width", |p| p.width),
            ("jaw", |p| p.jaw),
            ("chin", |p| p.chin),
            ("cheeks", |p| p.cheeks),
            ("forehead", |p| p.forehead),
            ("ears", |p| p.ears),
            ("eye_distance", |p| p.eye_distance),
            ("eye_size", |p| p.eye_size),
            ("eye_tilt", |p| p.eye_tilt),
            ("eye_height", |p| p.eye_height),
            ("brow_thickness", |p| p.brow_thickness),
            ("brow_arch", |p| p.brow_arch),
            ("nose_length", |p| p.nose_length),
            ("nose_width", |p| p.nose_width),
            ("mouth_width", |p| p.mouth_width),
            ("lips", |p| p.lips),
            ("skin", |p| p.skin),
            ("undertone", |p| p.undertone),
            ("eye_colour", |p| p.eye_colour),
            ("freckles", |p| p.freckles),
        ]
    }
}

impl Face {
    /// Samples an image of a person. All factors are independent of the person and of each other.
    pub fn random(person: Person, rng: &mut Rng) -> Self {
        let (yaw, pitch, roll) = (1.3 * bell(rng), bell(rng), bell(rng));
        let glasses = rng.below(6).saturating_sub(2) as u32;
        let beard = rng.range(-0.5, 1.0);
        Self {
            person,
            yaw: yaw.clamp(-1.0, 1.0),
            pitch,
            roll,
            glasses,
            hair_colour: rng.f32(),
            // Half of the faces have no beard; the others have one that is visible.
            beard: if beard < 0.25 { 0.0 } else { beard },
            smile: rng.range(-0.6, 1.0),
            age: rng.f32(),
            masculine: rng.range(-1.0, 1.0),
            light: rng.range(-1.0, 1.0),
            brightness: rng.range(0.8, 1.08),
            background: hsv(rng.f32(), rng.range(0.08, 0.5), rng.range(0.45, 0.95)),
            shirt: hsv(rng.f32(), rng.range(0.2, 0.8), rng.range(0.25, 0.9)),
            scale: rng.range(0.92, 1.08),
            shift: [rng.range(-0.03, 0.03), rng.range(-0.025, 0.025)],
        }
    }

    /// Returns the face with all values limited to ranges that can be rendered, because the
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
        let share = |v: f32| within(v, 0.0, 1.0);
        let p = self.person;
        Self {
            person: Person {
                number: p.number,
                width: one(p.width),
                jaw: one(p.jaw),
                chin: one(p.chin),
                cheeks: one(p.cheeks),
                forehead: one(p.forehead),
                ears: one(p.ears),
                eye_distance: one(p.eye_distance),
                eye_size: one(p.eye_size),
                eye_tilt: one(p.eye_tilt),
                eye_height: one(p.eye_height),
                brow_thickness: one(p.brow_thickness),
                brow_arch: one(p.brow_arch),
                nose_length: one(p.nose_length),
                nose_width: one(p.nose_width),
                mouth_width: one(p.mouth_width),
                lips: one(p.lips),
                skin: share(p.skin),
                undertone: one(p.undertone),
                eye_colour: share(p.eye_colour),
                hair_style: p.hair_style % HAIR_STYLES,
                freckles: share(p.freckles),
            },
            yaw: one(self.yaw),
            pitch: one(self.pitch),
            roll: one(self.roll),
            glasses: self.glasses.min(3),
            hair_colour: share(self.hair_colour),
            beard: share(self.beard),
            smile: one(self.smile),
            age: share(self.age),
            masculine: one(self.masculine),
            light: one(self.light),
            brightness: within(self.brightness, 0.3, 1.5),
            background: self.background.map(share),
            shirt: self.shirt.map(share),
            scale: within(self.scale, 0.3, 2.0),
            shift: self.shift.map(one),
        }
    }
}
