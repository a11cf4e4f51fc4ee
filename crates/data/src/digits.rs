//! Coloured digits, rendered from strokes or read from a table such as MNIST.

use super::dataset::{Attribute, Dataset, check_size, indices, render, unknown_concept};
use super::strokes::{self, Hand};
use super::{Batch, Factors, ImageColumns, Images, Split};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_ops::Rng;
use std::path::Path;
use std::sync::Arc;

/// Coloured digits, the dataset of the paper's Figure 4 ("ColorMNIST"): handwritten digits with
/// random foreground and background colours. The colours carry no information about the digit, so
/// a digit classifier should learn to discard them.
///
/// The digits are either rendered ([`Digits::strokes`]: unlimited, no download, every factor
/// known) or read from a table of grey images such as MNIST ([`Digits::mnist`]).
///
/// **Colours**: foreground and background are uniform in the RGB cube and independent of the
/// digit. They are drawn again until their Euclidean distance in [0, 1]³ is at least
/// [`Digits::CONTRAST`]. There is no other dependence between them.
///
/// ```
/// use invariances_data::*;
/// let digits = Digits::strokes(32, 0)?;
/// let batch = digits.batch(Split::Train, 0, 4)?;
/// assert_eq!(batch.images.dims(), [4, 3, 32, 32]);
/// assert_eq!(batch.factors.frame()?.height(), 4);
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Digits {
    size: usize,
    seed: u64,
    /// `None` if the digits are rendered from strokes.
    glyphs: Option<Arc<Glyphs>>,
}

/// Grey digits from a table.
#[derive(Debug)]
struct Glyphs {
    side: usize,
    /// `side`² values per digit, from 0 (background) to 255 (foreground).
    pixels: Vec<u8>,
    labels: Vec<u8>,
    /// Row numbers per split, shuffled.
    splits: [Vec<u32>; 3],
    /// Row numbers per split and digit.
    rows_of_digit: [[Vec<u32>; 10]; 3],
    hash: String,
}

/// Everything that determines one image, except the details of its shape, which are drawn from
/// `rng`.
struct Sample {
    digit: usize,
    /// For rendered digits: the style of writing.
    hand: Hand,
    /// For digits from a table: the row.
    row: usize,
    foreground: [f32; 3],
    background: [f32; 3],
    rng: Rng,
}

/// Version of the dataset. It changes whenever the images change, so that networks trained on
/// different versions have different identifiers.
const REVISION: u32 = 1;

impl Digits {
    /// The minimum Euclidean distance between foreground and background colour in [0, 1]³.
    pub const CONTRAST: f32 = 0.4;

    /// Creates an unlimited dataset of digits rendered from strokes, `size`×`size` pixels.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `size` is from 16 to 128.
    pub fn strokes(size: usize, seed: u64) -> Result<Self> {
        check_size("digits", size, 16)?;
        Ok(Self {
            size,
            seed,
            glyphs: None,
        })
    }

    /// Reads digits from a parquet table in the form of `ylecun/mnist` on the Hugging Face Hub
    /// (`image` {bytes, path}, `label`), light on dark, and colours them like the rendered ones.
    ///
    /// A digit is resized, if necessary, to 28/32 of the output size, the proportion of MNIST's
    /// 28 pixels in a 32-pixel image with a border of 2.
    ///
    /// The rows are shuffled and split by a fixed hash of the row number: 8/10 train, 1/10
    /// validation, 1/10 test.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `size` is from 16 to 128. [`Error::Io`] or [`Error::Content`] if
    /// the file is missing or is not such a table; if its images are not square, differ in size
    /// or exceed 256 pixels; or if it has labels above 9.
    pub fn mnist(path: impl AsRef<Path>, size: usize, seed: u64) -> Result<Self> {
        check_size("digits", size, 16)?;
        let path = path.as_ref();
        let table = Images::parquet(&[path], &ImageColumns::named("image", "label"))?;
        let wrong = |found: &str| {
            let what = format!("expected integers from 0 to 9 in column \"label\", found {found}");
            Error::content(path, what)
        };
        if table.has_text_labels() {
            return Err(wrong("text (label: str)"));
        }
        let labels = table.labels().ok_or_else(|| wrong("no label in any row"))?;
        if let Some(row) = labels.iter().position(|&l| l > 9) {
            return Err(Error::content(
                path,
                format!(
                    "row {row} has label {}, expected a digit 0 to 9",
                    labels[row]
                ),
            ));
        }
        let (side, pixels) = grey_squares(&table, path)?;
        let mut splits: [Vec<u32>; 3] = Default::default();
        let mut rows_of_digit: [[Vec<u32>; 10]; 3] = Default::default();
        let mut order: Vec<(u64, u32)> = (0..labels.len() as u32)
            .map(|row| (scramble(u64::from(row)), row))
            .collect();
        order.sort_unstable();
        for (hash, row) in order {
            let part = match hash % 10 {
                0 => Split::Test,
                1 => Split::Validation,
                _ => Split::Train,
            };
            splits[part as usize].push(row);
            rows_of_digit[part as usize][labels[row as usize] as usize].push(row);
        }
        let glyphs = Glyphs {
            side,
            pixels,
            labels: labels.iter().map(|&l| l as u8).collect(),
            splits,
            rows_of_digit,
            hash: table.hash()?,
        };
        Ok(Self {
            size,
            seed,
            glyphs: Some(Arc::new(glyphs)),
        })
    }

    /// Whether the digits are rendered ([`Digits::strokes`]): every factor is known and the
    /// dataset is unlimited.
    pub fn is_procedural(&self) -> bool {
        self.glyphs.is_none()
    }

    /// Returns the number of distinct shapes in a split; `None` for rendered digits, which are
    /// unlimited. For a table, sample `i` is shape `i % len`; beyond `len` the shapes repeat in
    /// new colours.
    pub fn len(&self, split: Split) -> Option<u64> {
        let glyphs = self.glyphs.as_ref()?;
        Some(glyphs.splits[split as usize].len() as u64)
    }

    /// Whether a split has no samples; always false for rendered digits.
    pub fn is_empty(&self, split: Split) -> bool {
        self.len(split) == Some(0)
    }

    fn check(&self, split: Split) -> Result<()> {
        if self.is_empty(split) {
            return Err(Error::invalid(format!(
                "expected at least one image in the {} split of the table, found none: use a table with more rows",
                split.name()
            )));
        }
        Ok(())
    }

    fn sample(&self, stream: &str, split: Split, index: u64) -> Sample {
        let mut rng = Rng::at(self.seed, stream, index);
        let mut digit = rng.below(10);
        let hand = Hand::draw(&mut rng);
        let mut row = 0;
        if let Some(glyphs) = &self.glyphs {
            let rows = &glyphs.splits[split as usize];
            row = rows[(index % rows.len() as u64) as usize] as usize;
            digit = usize::from(glyphs.labels[row]);
        }
        let foreground = colour(&mut rng);
        let background = colour_beside(foreground, &mut rng);
        Sample {
            digit,
            hand,
            row,
            foreground,
            background,
            rng,
        }
    }

    /// Copies a concept (a factor) from `a` to `b`.
    fn share(&self, split: Split, concept: &str, a: &Sample, b: &mut Sample) {
        if let Some(glyphs) = &self.glyphs {
            // At this point both samples have the same row of the table. Draw the second shape at
            // random.
            let rows_of_digit = match concept {
                "digit" => &glyphs.rows_of_digit[split as usize][a.digit],
                _ => &glyphs.splits[split as usize],
            };
            b.row = rows_of_digit[b.rng.below(rows_of_digit.len())] as usize;
            b.digit = usize::from(glyphs.labels[b.row]);
        }
        match concept {
            "digit" => b.digit = a.digit,
            "slant" => b.hand.slant = a.hand.slant,
            "rotation" => b.hand.rotation = a.hand.rotation,
            "thickness" => b.hand.thickness = a.hand.thickness,
            "scale" => b.hand.scale = a.hand.scale,
            "aspect" => b.hand.aspect = a.hand.aspect,
            "shift" => b.hand.shift = a.hand.shift,
            "foreground" => {
                b.foreground = a.foreground;
                b.background = colour_beside(a.foreground, &mut b.rng);
            }
            "background" => {
                b.background = a.background;
                b.foreground = colour_beside(a.background, &mut b.rng);
            }
            _ => {}
        }
    }

    fn render(
        &self,
        count: usize,
        sample: impl Fn(usize) -> Sample + Sync + Send,
    ) -> Result<Batch> {
        let area = self.size * self.size;
        let resize = self
            .glyphs
            .as_ref()
            .map(|glyphs| Resize::new(glyphs.side, self.size * 28 / 32));
        let (images, samples) = render(
            self.size,
            count,
            || vec![0.0; area],
            |k, pixels, foreground| {
                let mut sample = sample(k);
                match (&self.glyphs, &resize) {
                    (Some(glyphs), Some(resize)) => {
                        let n = glyphs.side * glyphs.side;
                        let glyph = &glyphs.pixels[sample.row * n..][..n];
                        resize.centred(glyph, self.size, foreground);
                    }
                    _ => {
                        let (hand, rng) = (&sample.hand, &mut sample.rng);
                        strokes::draw(sample.digit, hand, rng, self.size, foreground);
                    }
                }
                for (c, plane) in pixels.chunks_mut(area).enumerate() {
                    let background = 2.0 * sample.background[c] - 1.0;
                    let change = 2.0 * (sample.foreground[c] - sample.background[c]);
                    for (pixel, foreground) in plane.iter_mut().zip(&*foreground) {
                        *pixel = (background + change * foreground).clamp(-1.0, 1.0);
                    }
                }
                sample
            },
        )?;
        let labels: Vec<u32> = samples.iter().map(|s| s.digit as u32).collect();
        Ok(Batch {
            images,
            labels: Tensor::from_vec(labels, count, &Device::Cpu)?,
            factors: self.factors(&samples)?,
        })
    }

    fn factors(&self, samples: &[Sample]) -> Result<Factors> {
        let integers = |f: &dyn Fn(&Sample) -> usize| samples.iter().map(|s| f(s) as u32).collect();
        let real = |f: &dyn Fn(&Sample) -> f32| samples.iter().map(f).collect();
        let mut factors = Factors::new().with_whole("digit", integers(&|s| s.digit))?;
        if self.glyphs.is_some() {
            factors = factors.with_whole("row", integers(&|s| s.row))?;
        } else {
            factors = factors
                .with_whole("style", integers(&|s| s.hand.style_of(s.digit)))?
                .with_real("slant", real(&|s| s.hand.slant))?
                .with_real("rotation", real(&|s| s.hand.rotation))?
                .with_real("thickness", real(&|s| s.hand.thickness))?
                .with_real("scale", real(&|s| s.hand.scale))?
                .with_real("aspect", real(&|s| s.hand.aspect))?
                .with_real("shift_x", real(&|s| s.hand.shift[0]))?
                .with_real("shift_y", real(&|s| s.hand.shift[1]))?
                .with_real("elastic", real(&|s| s.hand.elastic))?;
        }
        let colour = |f: &dyn Fn(&Sample) -> [f32; 3]| samples.iter().map(f).collect::<Vec<_>>();
        factors
            .with_colour("foreground", &colour(&|s| s.foreground))?
            .with_colour("background", &colour(&|s| s.background))
    }
}

/// Factors that a pair of images can share. A table supports only the first three.
const CONCEPTS: [&str; 9] = [
    "digit",
    "foreground",
    "background",
    "slant",
    "rotation",
    "thickness",
    "scale",
    "aspect",
    "shift",
];

impl Dataset for Digits {
    fn size(&self) -> usize {
        self.size
    }

    fn id(&self) -> String {
        let source = match &self.glyphs {
            None => "strokes".into(),
            Some(glyphs) => format!("table-{}", glyphs.hash),
        };
        format!(
            "digits-{REVISION}-{source}-size{}-seed{}",
            self.size, self.seed
        )
    }

    fn classes(&self) -> Vec<String> {
        (0..10).map(|digit| digit.to_string()).collect()
    }

    fn attributes(&self) -> Vec<Attribute> {
        let digits = self.classes();
        let digits: Vec<&str> = digits.iter().map(String::as_str).collect();
        vec![Attribute::class("digit", &digits)]
    }

    fn concepts(&self) -> Vec<String> {
        let known = if self.is_procedural() { 9 } else { 3 };
        CONCEPTS[..known].iter().map(ToString::to_string).collect()
    }

    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        self.check(split)?;
        let stream = format!("digits/{}", split.name());
        self.render(indices.len(), |k| self.sample(&stream, split, indices[k]))
    }

    fn pairs(
        &self,
        split: Split,
        start: u64,
        count: usize,
        concept: &str,
    ) -> Result<(Batch, Batch)> {
        self.check(split)?;
        if !self.concepts().iter().any(|c| c == concept) {
            return Err(unknown_concept(concept, self));
        }
        let indices = indices(start, count)?;
        let stream = |side: &str| format!("digits/pairs/{}/{side}", split.name());
        let (first, second) = (stream("first"), stream("second"));
        let a = self.render(count, |k| self.sample(&first, split, indices[k]))?;
        let b = self.render(count, |k| {
            let a = self.sample(&first, split, indices[k]);
            let mut b = self.sample(&second, split, indices[k]);
            self.share(split, concept, &a, &mut b);
            b
        })?;
        Ok((a, b))
    }
}

/// Maximum side of a table's digits, in pixels.
const LARGEST: u32 = 256;

/// Returns all images of a table in grey, concatenated, and their common side.
fn grey_squares(table: &Images, path: &Path) -> Result<(usize, Vec<u8>)> {
    /// Number of images that are decoded at a time.
    const STAGE: usize = 1024;
    let mut pixels: Vec<u8> = Vec::new();
    let mut side = None;
    let rows: Vec<usize> = (0..table.len()).collect();
    for rows in rows.chunks(STAGE) {
        let images = table.decoded(rows, LARGEST, |image| Ok(image.into_luma8()))?;
        for (row, image) in rows.iter().zip(images) {
            let (width, height) = (image.width() as usize, image.height() as usize);
            let side = *side.get_or_insert(width);
            if (width, height) != (side, side) {
                return Err(Error::content(
                    path,
                    format!(
                        "row {row}: expected square images of the same size, at most {LARGEST} pixels per side (MNIST has 28×28), found {width}×{height} pixels"
                    ),
                ));
            }
            if *row == 0 {
                let wanted = table.len().checked_mul(side * side);
                if wanted.is_none_or(|n| pixels.try_reserve_exact(n).is_err()) {
                    return Err(Error::content(
                        path,
                        format!(
                            "not enough memory for {} images of {side}×{side} pixels",
                            table.len()
                        ),
                    ));
                }
            }
            pixels.extend_from_slice(image.as_raw());
        }
    }
    let side = side.ok_or_else(|| Error::content(path, "the table has no rows"))?;
    Ok((side, pixels))
}

fn colour(rng: &mut Rng) -> [f32; 3] {
    [rng.f32(), rng.f32(), rng.f32()]
}

/// Draws a colour whose distance from `other` is at least [`Digits::CONTRAST`].
fn colour_beside(other: [f32; 3], rng: &mut Rng) -> [f32; 3] {
    // For any `other`, at least 73 % of the cube is far enough away, so the loop ends soon.
    loop {
        let colour = colour(rng);
        let square = |k: usize| (colour[k] - other[k]) * (colour[k] - other[k]);
        if square(0) + square(1) + square(2) >= Digits::CONTRAST * Digits::CONTRAST {
            return colour;
        }
    }
}

/// The finaliser of SplitMix64: a fixed hash of the row number, so that the splits of a table
/// never change.
fn scramble(row: u64) -> u64 {
    let mut z = row.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Separable resizing by a triangle filter with the width of the coarser of the two grids.
struct Resize {
    from: usize,
    to: usize,
    /// For each output position: the first input position and the weights of the inputs from
    /// there.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Resize {
    fn new(from: usize, to: usize) -> Self {
        let ratio = from as f32 / to as f32;
        let reach = ratio.max(1.0);
        let taps = (0..to).map(|i| {
            let centre = (i as f32 + 0.5) * ratio;
            let first = (centre - reach).max(0.0) as usize;
            let last = ((centre + reach) as usize + 1).min(from);
            let mut weights: Vec<f32> = (first..last)
                .map(|j| (1.0 - ((j as f32 + 0.5 - centre) / reach).abs()).max(0.0))
                .collect();
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
            (first, weights)
        });
        Self {
            from,
            to,
            taps: taps.collect(),
        }
    }

    /// Writes the resized glyph to the centre of `foreground`, which has `size`×`size` values in [0, 1].
    fn centred(&self, glyph: &[u8], size: usize, foreground: &mut [f32]) {
        foreground.fill(0.0);
        let border = (size - self.to) / 2;
        let mut line = vec![0.0f32; self.from];
        for (y, (first, weights)) in self.taps.iter().enumerate() {
            line.fill(0.0);
            for (j, weight) in weights.iter().enumerate() {
                let row = &glyph[(first + j) * self.from..][..self.from];
                for (sum, &value) in line.iter_mut().zip(row) {
                    *sum += weight * f32::from(value) / 255.0;
                }
            }
            let out = &mut foreground[(border + y) * size + border..][..self.to];
            for (value, (first, weights)) in out.iter_mut().zip(&self.taps) {
                let inputs = &line[*first..];
                *value = weights.iter().zip(inputs).map(|(w, v)| w * v).sum();
            }
        }
    }
}
