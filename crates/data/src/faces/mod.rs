//! Synthetic faces, used instead of CelebA.

mod draw;
mod face;
mod features;
mod hair;
mod head;

pub use face::{Face, HAIR_STYLES, Person};

use super::dataset::{self, Attribute, Dataset, check_size, indices, unknown_concept};
use super::{Batch, Factors, Split};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_ops::Rng;

/// A synthetic dataset of faces, which replaces CelebA in the paper's Figures 3 and 7.
///
/// The factors are the identity (a [`Person`]: the shape of the head and its parts, skin, eyes,
/// hair style) and everything that changes from image to image (pose, glasses, hair colour,
/// beard, smile, age, gender-like shape, light, background). All are independent of each other.
///
/// By default the dataset is unlimited and each image shows another person. With
/// [`Faces::people`] there is a fixed number of people, and the labels are their numbers. A face
/// can also be created and changed by the caller:
///
/// ```
/// use invariances_data::*;
/// let faces = Faces::new(64, 0)?;
/// let face = faces.face(Split::Test, 3);
/// let smiling = Face { smile: 1.0, ..face };
/// let batch = faces.draw(&[face, smiling])?;
/// assert_eq!(batch.images.dims(), [2, 3, 64, 64]);
/// assert_eq!(batch.factors.column("smile")?[1], 1.0);
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faces {
    size: usize,
    seed: u64,
    people: Option<u32>,
    /// Index of a concept, and the fraction of the people for whom this concept is fixed.
    tied: Option<(usize, f32)>,
}

/// Version of the dataset. It changes whenever the images change, so that networks trained on
/// different versions have different identifiers.
const REVISION: u32 = 2;

/// The names of the hair styles, by index.
const STYLES: [&str; HAIR_STYLES as usize] = [
    "short", "parted", "curls", "long", "bob", "bun", "bald", "waves",
];

/// A factor that two images can share, and the function that copies it to the second.
type Concept = (&'static str, fn(&Face, &mut Face));

const CONCEPTS: [Concept; 14] = [
    ("person", |a, b| b.person = a.person),
    ("yaw", |a, b| b.yaw = a.yaw),
    ("pitch", |a, b| b.pitch = a.pitch),
    ("roll", |a, b| b.roll = a.roll),
    ("glasses", |a, b| b.glasses = a.glasses),
    ("hair_colour", |a, b| b.hair_colour = a.hair_colour),
    ("beard", |a, b| b.beard = a.beard),
    ("smile", |a, b| b.smile = a.smile),
    ("age", |a, b| b.age = a.age),
    ("masculine", |a, b| b.masculine = a.masculine),
    ("light", |a, b| b.light = a.light),
    ("brightness", |a, b| b.brightness = a.brightness),
    ("background", |a, b| b.background = a.background),
    ("shirt", |a, b| b.shirt = a.shirt),
];

impl Face {
    /// Returns this face with one concept copied from another face: the expected result of
    /// swapping a factor.
    ///
    /// ```
    /// use invariances_data::*;
    /// let faces = Faces::new(64, 0)?;
    /// let (one, other) = (faces.face(Split::Test, 0), faces.face(Split::Test, 1));
    /// let changed = one.taking(&other, "glasses")?;
    /// assert_eq!((changed.glasses, changed.person), (other.glasses, one.person));
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown concept; the message lists the known ones.
    pub fn taking(&self, other: &Face, concept: &str) -> Result<Face> {
        let found = CONCEPTS.iter().find(|(name, _)| *name == concept);
        let Some((_, share)) = found else {
            let names: Vec<&str> = CONCEPTS.iter().map(|(name, _)| *name).collect();
            return Err(Error::unknown(format!(
                "faces have no concept {concept:?}; their concepts are {}",
                names.join(", ")
            )));
        };
        let mut face = *self;
        share(other, &mut face);
        Ok(face)
    }
}

impl Faces {
    /// Creates faces of `size`×`size` pixels. Each image shows another person, whose number is
    /// the index of the image.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `size` is from 32 to 128.
    pub fn new(size: usize, seed: u64) -> Result<Self> {
        check_size("faces", size, 32)?;
        Ok(Self {
            size,
            seed,
            people: None,
            tied: None,
        })
    }

    /// Returns faces of `count` people. They are the same in every split, in different images.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` is 0.
    pub fn people(&self, count: u32) -> Result<Self> {
        if count == 0 {
            return Err(Error::invalid("expected at least one person, found 0"));
        }
        Ok(Self {
            people: Some(count),
            ..self.clone()
        })
    }

    /// Returns a biased dataset: for a fraction of the people, one concept is fixed.
    ///
    /// `faces.people(200)?.tied("glasses", 0.5)?` assigns half of the people fixed glasses, which
    /// they wear in every image (or never). For the others, glasses change from image to image,
    /// as for all people without this setting. A network that learns to identify the people may
    /// then treat glasses as part of the identity.
    ///
    /// ```
    /// use invariances_data::*;
    /// let faces = Faces::new(64, 0)?.people(2)?.tied("glasses", 1.0)?;
    /// let (a, b) = (faces.face(Split::Train, 0), faces.face(Split::Test, 1));
    /// assert!(a.person != b.person || a.glasses == b.glasses);
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown concept or `person`; [`Error::Invalid`] for a share
    /// outside [0, 1], or without [`Faces::people`]: a person that appears only once has no fixed concept.
    pub fn tied(&self, concept: &str, share: f32) -> Result<Self> {
        let found = CONCEPTS.iter().position(|(name, _)| *name == concept);
        let place = found
            .filter(|place| CONCEPTS[*place].0 != "person")
            .ok_or_else(|| unknown_concept(concept, self))?;
        if !(0.0..=1.0).contains(&share) || self.people.is_none() {
            return Err(Error::invalid(format!(
                "expected a share from 0 to 1 in a dataset with a fixed set of people (`people(…)`), found {share} in {}",
                self.id()
            )));
        }
        Ok(Self {
            tied: Some((place, share)),
            ..self.clone()
        })
    }

    /// Sets the concept that is fixed for the face's person, if there is one.
    fn tie(&self, face: &mut Face) {
        let Some((place, share)) = self.tied else {
            return;
        };
        let mut rng = Rng::at(self.seed, "faces/tied", u64::from(face.person.number));
        if rng.f32() < share {
            let own = Face::random(face.person, &mut rng);
            CONCEPTS[place].1(&own, face);
        }
    }

    /// Returns the person with this number.
    pub fn person(&self, number: u32) -> Person {
        let mut rng = Rng::at(self.seed, "faces/people", u64::from(number));
        Person {
            number,
            ..Person::random(&mut rng)
        }
    }

    /// Returns the factors of sample `index` of a split, which can be changed and rendered.
    pub fn face(&self, split: Split, index: u64) -> Face {
        self.sample(&format!("faces/{}", split.name()), index)
    }

    /// Renders these faces; the labels are the numbers of the people.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no faces, or if memory is insufficient.
    pub fn draw(&self, faces: &[Face]) -> Result<Batch> {
        let (images, _) = dataset::render(
            self.size,
            faces.len(),
            || (),
            |k, pixels, ()| draw::draw(&faces[k], self.size, pixels),
        )?;
        let labels: Vec<u32> = faces.iter().map(|f| f.person.number).collect();
        Ok(Batch {
            images,
            labels: Tensor::from_vec(labels, faces.len(), &Device::Cpu)?,
            factors: factors(faces)?,
        })
    }

    fn sample(&self, stream: &str, index: u64) -> Face {
        let mut rng = Rng::at(self.seed, stream, index);
        let person = match self.people {
            Some(count) => self.person(rng.below(count as usize) as u32),
            None => Person {
                number: index as u32,
                ..Person::random(&mut rng)
            },
        };
        let mut face = Face::random(person, &mut rng);
        self.tie(&mut face);
        face
    }
}

impl Dataset for Faces {
    fn size(&self) -> usize {
        self.size
    }

    fn id(&self) -> String {
        let people = match self.people {
            Some(count) => format!("{count}people"),
            None => "endless".into(),
        };
        let tied = match self.tied {
            Some((place, share)) => format!("-{}-tied-{share}", CONCEPTS[place].0),
            None => String::new(),
        };
        format!(
            "faces-{REVISION}-{people}{tied}-size{}-seed{}",
            self.size, self.seed
        )
    }

    fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    fn attributes(&self) -> Vec<Attribute> {
        vec![
            Attribute::class("glasses", &["none", "round", "square", "dark"]),
            Attribute::new("beard", &["none", "beard"], &[0.1]),
            Attribute::new("smile", &["no", "smiles"], &[0.3]),
            Attribute::new("age", &["younger", "older"], &[0.5]),
            Attribute::new("masculine", &["feminine", "masculine"], &[0.0]),
            Attribute::new("hair_colour", &["dark", "red", "fair"], &[0.45, 0.7]),
            Attribute::class("hair_style", &STYLES),
            Attribute::new("yaw", &["left", "front", "right"], &[-0.25, 0.25]),
            Attribute::new("light", &["from the left", "from the right"], &[0.0]),
        ]
    }

    fn concepts(&self) -> Vec<String> {
        CONCEPTS.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        let faces: Vec<Face> = indices.iter().map(|&i| self.face(split, i)).collect();
        self.draw(&faces)
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
        let stream = |side: &str| format!("faces/pairs/{}/{side}", split.name());
        let (first, second) = (stream("first"), stream("second"));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for index in indices(start, count)? {
            let (one, mut other) = (self.sample(&first, index), self.sample(&second, index));
            // A different person, unless the pair shares the person.
            if self.people.is_none() {
                other.person.number = !one.person.number;
            }
            share(&one, &mut other);
            if concept == "person" {
                self.tie(&mut other);
            }
            a.push(one);
            b.push(other);
        }
        Ok((self.draw(&a)?, self.draw(&b)?))
    }
}

fn factors(faces: &[Face]) -> Result<Factors> {
    let whole = |f: &dyn Fn(&Face) -> u32| faces.iter().map(f).collect();
    let real = |f: &dyn Fn(&Face) -> f32| faces.iter().map(f).collect();
    let mut factors = Factors::new()
        .with_whole("person", whole(&|f| f.person.number))?
        .with_whole("glasses", whole(&|f| f.glasses))?
        .with_whole("hair_style", whole(&|f| f.person.hair_style))?
        .with_real("yaw", real(&|f| f.yaw))?
        .with_real("pitch", real(&|f| f.pitch))?
        .with_real("roll", real(&|f| f.roll))?
        .with_real("hair_colour", real(&|f| f.hair_colour))?
        .with_real("beard", real(&|f| f.beard))?
        .with_real("smile", real(&|f| f.smile))?
        .with_real("age", real(&|f| f.age))?
        .with_real("masculine", real(&|f| f.masculine))?
        .with_real("light", real(&|f| f.light))?
        .with_real("brightness", real(&|f| f.brightness))?
        .with_real("scale", real(&|f| f.scale))?
        .with_real("shift_x", real(&|f| f.shift[0]))?
        .with_real("shift_y", real(&|f| f.shift[1]))?;
    for (name, value) in Person::traits() {
        factors = factors.with_real(name, real(&|f| value(&f.person)))?;
    }
    let colour = |f: &dyn Fn(&Face) -> [f32; 3]| faces.iter().map(f).collect::<Vec<_>>();
    factors
        .with_colour("background", &colour(&|f| f.background))?
        .with_colour("shirt", &colour(&|f| f.shirt))
}
