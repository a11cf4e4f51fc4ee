//! [`Fidelity`], how near the representations of generated images are to the z that they were made
//! for, beside those of reconstructions and of unrelated images.

use super::Samples;
use super::targets::unknown;
use crate::backbone::{Greybox, device_of, rows_on};
use crate::figure::{Boxes, Table};
use crate::metric::Resampled;
use crate::ops::widened as wide;
use crate::ops::{Placement, values};
use crate::{Error, Result};
use candle_core::Tensor;

/// The name of the first method.
const FIRST: &str = "samples";

/// The quantile of the floor up to which an image counts as near z, in percent.
const QUANTILE: usize = 95;

/// The overlap from which a layer is said not to tell images apart from reconstructions.
const INDISTINGUISHABLE: f64 = 0.5;

/// The number of bootstrap resamples of the overlap.
const RESAMPLES: usize = 2000;

/// The number of images that the network processes at once.
const BATCH: usize = 64;

/// The fidelity of images to a representation, at one layer: the distribution of ‖Φ(x̃) − z‖ over
/// the images x̃ that a method made for z = Φ(x), between
///
/// - its **floor**, ‖Φ(D(E(x))) − z‖ of the reconstructions: what the autoencoder alone costs;
/// - its **ceiling**, ‖Φ(x′) − Φ(x)‖ of unrelated images: each original and the next one. Originals
///   must be in random order, as the datasets of this crate have them; sorted by class, the next
///   image would be a related one.
///
/// Intervals are over the originals, which are resampled with all of their images; a method, the
/// floor and the ceiling are paired. Each original is in two distances of the ceiling, which makes
/// the interval of [`Fidelity::position`] a little too small.
///
/// This project writes that a layer "cannot tell apart" images and reconstructions only where
/// [`Fidelity::is_indistinguishable`] holds: at least half of the images are no farther from z
/// than the 95 % quantile of the reconstructions, with the whole 95 % interval of that share. The
/// rule was fixed on 2026-11-28, before it was measured for any layer (the interval was added on
/// the same day, after the first measurements). A poor autoencoder raises the floor: look at it
/// first.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::backbone::plain_small;
/// use invariances::interpret::Fidelity;
/// let network = plain_small(10, &Params::new(0).root())?.frozen()?;
/// let images = Digits::strokes(32, 0)?.batch(Split::Test, 0, 8)?.images;
/// let pool = network.at("pool")?;
/// // Reconstructions and samples, here the images with a little and with much noise.
/// let noise = Rng::new(1).normal(images.shape(), &Device::Cpu)?;
/// let reconstructions = (&images + (&noise * 0.01)?)?;
/// let samples = Samples::of(&(&images + (&noise * 0.3)?)?, 1)?;
/// let fidelity = Fidelity::of(&pool, &pool.encode(&images)?, &reconstructions, &samples)?;
/// assert!(fidelity.multiple("samples", 0)?.value() > 1.0);
/// assert!(fidelity.sentence().starts_with("pool: samples lie"));
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fidelity {
    name: Option<String>,
    greybox: Greybox,
    z: Tensor,
    floor: Vec<f64>,
    ceiling: Vec<f64>,
    methods: Vec<Method>,
}

/// The distances of a method's images, those of the first original first.
#[derive(Clone, Debug)]
struct Method {
    name: String,
    per_image: usize,
    distances: Vec<f64>,
}

impl Method {
    fn originals(&self) -> usize {
        self.distances.len() / self.per_image
    }

    /// The mean distance of each original's images.
    fn means(&self) -> Vec<f64> {
        self.distances.chunks(self.per_image).map(mean).collect()
    }

    /// The share of the chosen originals' images that are no farther from z than the quantile of
    /// the chosen originals' floor.
    fn overlap(&self, floor: &[f64], chosen: &[usize]) -> f64 {
        if chosen.is_empty() {
            return f64::NAN;
        }
        let mut floor: Vec<f64> = chosen.iter().map(|i| floor[*i]).collect();
        // The smallest distance that at least 95 % of the reconstructions do not exceed.
        let rank = (QUANTILE * floor.len()).div_ceil(100) - 1;
        let limit = *floor.select_nth_unstable_by(rank, f64::total_cmp).1;
        let within = chosen.iter().map(|i| {
            let images = &self.distances[i * self.per_image..(i + 1) * self.per_image];
            images.iter().filter(|d| **d <= limit).count()
        });
        within.sum::<usize>() as f64 / (chosen.len() * self.per_image) as f64
    }
}

impl Fidelity {
    /// Measures samples, the first method, under the name `samples`.
    ///
    /// `z` are the representations (batch, …) of the originals, as computed by the greybox;
    /// `reconstructions` are D(E(x)) of the same originals, (batch, 3, h, w). The network processes
    /// 64 images at a time, on its own device.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than two originals, or if there is not one reconstruction for
    /// each; otherwise as [`Fidelity::with`].
    pub fn of(
        greybox: &Greybox,
        z: &Tensor,
        reconstructions: &Tensor,
        samples: &Samples,
    ) -> Result<Self> {
        let rows = |x: &Tensor| x.dims().first().copied().unwrap_or(0);
        let batch = rows(z);
        if z.rank() < 2 || batch < 2 || rows(reconstructions) != batch {
            return Err(Error::shape(format!(
                "expected z of at least two originals, (batch, …), and a reconstruction of each, \
                 found z of shape {:?} and reconstructions of shape {:?}",
                z.dims(),
                reconstructions.dims()
            )));
        }
        let z = z.detach().flatten_from(1)?.contiguous()?;
        let next: Vec<u32> = (0..batch).map(|i| ((i + 1) % batch) as u32).collect();
        let next = z.index_select(&Tensor::new(next, z.device())?, 0)?;
        let fidelity = Self {
            name: None,
            floor: distances(greybox, &z, reconstructions, 1)?,
            ceiling: finite(lengths(&next, &z)?, "z")?,
            greybox: greybox.clone(),
            z,
            methods: Vec::new(),
        };
        fidelity.with(FIRST, samples)
    }

    /// Measures the images of another method for the same originals, or for the first of them if
    /// the method is slow. For fewer originals, `multiple`, `position` and `overlap` use the floor
    /// and the ceiling of these only.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of fewer than two originals or of more than there are, or if
    /// they do not fit the network; [`Error::Invalid`] for a name that is used already, and if a
    /// distance is NaN or infinite.
    pub fn with(mut self, name: &str, images: &Samples) -> Result<Self> {
        let per_image = images.per_image();
        let images = images.images();
        let (count, batch) = (images.dims4()?.0, self.floor.len());
        let originals = count / per_image;
        if originals < 2 || originals > batch {
            return Err(Error::shape(format!(
                "expected images of {batch} originals, or of at least the first two of them, found \
                 {count} images, {per_image} per original"
            )));
        }
        if self.methods.iter().any(|m| m.name == name) {
            return Err(Error::invalid(format!(
                "expected a new name for each method, found {name:?} twice"
            )));
        }
        self.methods.push(Method {
            name: name.into(),
            per_image,
            distances: distances(&self.greybox, &self.z, &images, per_image)?,
        });
        Ok(self)
    }

    /// Sets the name that tables, figures and sentences show. By default it is the layer's.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name: the layer's, unless [`Fidelity::named`] set another.
    pub fn layer(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.greybox.layer())
    }

    /// The names of the methods, `samples` first.
    pub fn methods(&self) -> Vec<String> {
        self.methods.iter().map(|m| m.name.clone()).collect()
    }

    /// ‖Φ(x̃) − z‖ of each image of a method, those of the first original first.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a method that was not measured.
    pub fn distances(&self, method: &str) -> Result<Vec<f64>> {
        Ok(self.method(method)?.distances.clone())
    }

    /// ‖Φ(D(E(x))) − z‖ of each original's reconstruction.
    pub fn floor(&self) -> &[f64] {
        &self.floor
    }

    /// ‖Φ(x′) − Φ(x)‖ of each original x and the next one x′; after the last comes the first.
    pub fn ceiling(&self) -> &[f64] {
        &self.ceiling
    }

    /// The mean distance of a method's images, divided by that of the reconstructions: 1 if they
    /// are as near to z as reconstructions.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a method that was not measured; [`Error::Invalid`] if the
    /// reconstructions have exactly the z of their originals.
    pub fn multiple(&self, method: &str, seed: u64) -> Result<Resampled> {
        let method = self.method(method)?;
        let (floor, _) = self.range(method);
        if mean(floor) <= 0.0 {
            return Err(Error::invalid(format!(
                "the reconstructions have exactly the z of their originals at {}: a multiple of \
                 their mean distance, 0, is not defined; use `position`",
                self.layer()
            )));
        }
        let own = Resampled::mean(&method.means(), seed);
        Ok(own.over(&Resampled::mean(floor, seed)))
    }

    /// The position of a method's mean distance between floor and ceiling, (mean − floor) /
    /// (ceiling − floor): 0 as near to z as a reconstruction, 1 as far as an unrelated image.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a method that was not measured; [`Error::Invalid`] if unrelated
    /// images are not farther from z than reconstructions.
    pub fn position(&self, method: &str, seed: u64) -> Result<Resampled> {
        let method = self.method(method)?;
        let (floor, ceiling) = self.range(method);
        if mean(ceiling) <= mean(floor) {
            return Err(Error::invalid(format!(
                "expected unrelated images that are farther from z than reconstructions, found \
                 mean distances of {} and {} at {}: the reconstructions do not keep z",
                mean(ceiling),
                mean(floor),
                self.layer()
            )));
        }
        let [own, floor, ceiling] =
            [&method.means()[..], floor, ceiling].map(|each| Resampled::mean(each, seed));
        Ok(Resampled::combine(
            &[&own, &floor, &ceiling],
            |values| match values {
                [own, floor, ceiling] => (own - floor) / (ceiling - floor),
                _ => f64::NAN,
            },
        ))
    }

    /// The share of a method's images that are no farther from z than the 95 % quantile of the
    /// reconstructions' distances. For the reconstructions themselves it is 0.95, rounded up to a
    /// whole number of originals.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a method that was not measured.
    pub fn overlap(&self, method: &str, seed: u64) -> Result<Resampled> {
        let method = self.method(method)?;
        let (floor, _) = self.range(method);
        Resampled::statistic(method.originals(), RESAMPLES, seed, |chosen| {
            Ok(method.overlap(floor, chosen))
        })
    }

    /// Whether the layer cannot tell most of a method's images apart from reconstructions: the
    /// interval of the overlap ([`Fidelity::overlap`]) is at or above 0.5. Only then does this project write that a
    /// layer cannot tell images apart. The rule was fixed on 2026-11-28, before it was measured.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a method that was not measured.
    pub fn is_indistinguishable(&self, method: &str) -> Result<bool> {
        Ok(self.is_near(self.method(method)?) == Some(true))
    }

    /// Describes each method in a sentence, for example "fc6: samples lie 3.1 times as far from z
    /// as reconstructions (0.21 of the way to an unrelated image); the layer tells most of them apart
    /// from x."
    pub fn sentence(&self) -> String {
        let each = self.methods.iter().map(|m| self.sentence_of(m));
        each.collect::<Vec<_>>().join(" ")
    }

    /// A table with a row per layer and method: the medians of its distances, of its floor and of
    /// its ceiling, and multiple, position and overlap with their 95 % intervals over the
    /// originals. "–" stands for what is not defined.
    pub fn table(all: &[Self], seed: u64) -> Table {
        let mut table = Table::new([
            "layer",
            "images",
            "median distance",
            "floor",
            "ceiling",
            "multiple of floor",
            "position",
            "overlap",
        ]);
        let interval = |found: Result<Resampled>| match found {
            Ok(value) => value.to_string(),
            Err(_) => "–".into(),
        };
        for fidelity in all {
            for method in &fidelity.methods {
                let (floor, ceiling) = fidelity.range(method);
                table = table.row([
                    fidelity.layer(),
                    method.name.clone(),
                    short(median(&method.distances)),
                    short(median(floor)),
                    short(median(ceiling)),
                    interval(fidelity.multiple(&method.name, seed)),
                    interval(fidelity.position(&method.name, seed)),
                    interval(fidelity.overlap(&method.name, seed)),
                ]);
            }
        }
        table.caption(
            "Distances to z. Floor: reconstructions; ceiling: unrelated images. Position: 0 as \
             near to z as reconstructions, 1 as far as unrelated images. Overlap: the share of \
             images no farther from z than the 95 % quantile of the reconstructions; from 0.5 on, \
             the layer cannot tell most of them apart from reconstructions.",
        )
    }

    /// Shows the distributions of the distances as boxes: a group per layer; reconstructions, each
    /// method and unrelated images as series. The distances of a layer are divided by its mean
    /// distance of unrelated images. A method that was not measured at a layer has no box there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no layers, or if all originals have the same z at a layer.
    pub fn boxes(all: &[Self]) -> Result<Boxes> {
        if all.is_empty() {
            return Err(Error::invalid(
                "expected the fidelity at one layer at least, found none",
            ));
        }
        let mut names: Vec<String> = Vec::new();
        for name in all.iter().flat_map(Self::methods) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (mut floors, mut ceilings) = (Vec::new(), Vec::new());
        let mut methods: Vec<Vec<Vec<f64>>> = vec![Vec::new(); names.len()];
        for fidelity in all {
            let unit = mean(&fidelity.ceiling);
            if unit <= 0.0 {
                return Err(Error::invalid(format!(
                    "expected originals with different z at {}, found the same z for all: choose \
                     other images",
                    fidelity.layer()
                )));
            }
            let scaled = |values: &[f64]| -> Vec<f64> { values.iter().map(|d| d / unit).collect() };
            floors.push(scaled(&fidelity.floor));
            ceilings.push(scaled(&fidelity.ceiling));
            for (name, groups) in names.iter().zip(&mut methods) {
                let method = fidelity.methods.iter().find(|m| m.name == *name);
                groups.push(method.map(|m| scaled(&m.distances)).unwrap_or_default());
            }
        }
        let mut boxes = Boxes::new("Distance to z", all.iter().map(Self::layer))
            .y_label("distance to z (unrelated images: 1)")
            .from_zero()
            .series("D(E(x))", &floors);
        for (name, groups) in names.iter().zip(&methods) {
            boxes = boxes.series(name, groups);
        }
        Ok(boxes.series("unrelated images", &ceilings))
    }

    /// The network and its layer.
    pub(super) fn greybox(&self) -> &Greybox {
        &self.greybox
    }

    /// The distances of the first method, the samples, and how many of them there are per original.
    pub(super) fn of_samples(&self) -> (&[f64], usize) {
        let first = self.methods.first();
        first.map_or((&[], 1), |m| (&m.distances[..], m.per_image))
    }

    /// z of each original, (batch, f).
    pub(super) fn z(&self) -> &Tensor {
        &self.z
    }

    fn sentence_of(&self, method: &Method) -> String {
        let (floor, ceiling) = self.range(method);
        let (own, floor, ceiling) = (mean(&method.means()), mean(floor), mean(ceiling));
        let subject = match method.name.as_str() {
            FIRST => FIRST.to_string(),
            name => format!("images of {name}"),
        };
        let distance = match floor > 0.0 {
            true => format!(
                "lie {:.1} times as far from z as reconstructions",
                own / floor
            ),
            false => format!(
                "lie at distance {} from z, reconstructions at distance 0",
                short(own)
            ),
        };
        let position = match ceiling > floor {
            // Adding 0 turns −0 into 0.
            true => format!(
                " ({:.2} of the way to an unrelated image)",
                ((own - floor) / (ceiling - floor) * 100.0).round() / 100.0 + 0.0
            ),
            false => String::new(),
        };
        let verdict = match self.is_near(method) {
            Some(true) => "the layer cannot tell most of them apart from reconstructions",
            Some(false) => "the layer tells most of them apart from reconstructions",
            None => "whether the layer tells most of them apart from reconstructions is undecided",
        };
        format!(
            "{}: {subject} {distance}{position}; {verdict}.",
            self.layer()
        )
    }

    /// Whether the overlap's interval is on one side of the limit, and on which.
    fn is_near(&self, method: &Method) -> Option<bool> {
        let overlap = self.overlap(&method.name, 0).ok()?.estimate();
        match (overlap.low, overlap.high) {
            (low, _) if low >= INDISTINGUISHABLE => Some(true),
            (_, high) if high < INDISTINGUISHABLE => Some(false),
            _ => None,
        }
    }

    /// Floor and ceiling of the originals for which a method made images: [`Fidelity::with`]
    /// checks that there are as many.
    fn range(&self, method: &Method) -> (&[f64], &[f64]) {
        let originals = method.originals();
        (&self.floor[..originals], &self.ceiling[..originals])
    }

    fn method(&self, name: &str) -> Result<&Method> {
        let known = self.methods.iter().map(|m| m.name.as_str());
        let found = self.methods.iter().find(|m| m.name == name);
        found.ok_or_else(|| unknown(name, "method", known))
    }
}

/// ‖Φ(image) − z‖ of each image, `per_image` of them for each row of z (batch, f).
fn distances(greybox: &Greybox, z: &Tensor, images: &Tensor, per_image: usize) -> Result<Vec<f64>> {
    let images = images.detach();
    let count = images.dim(0)?;
    let device = device_of(&*greybox.network(), &images);
    let mut all = Vec::with_capacity(count);
    for start in (0..count).step_by(BATCH) {
        let end = count.min(start + BATCH);
        let found = greybox.encode(&rows_on(&device, &images, start, end - start)?)?;
        let found = found.detach().flatten_from(1)?;
        let rows: Vec<u32> = (start..end).map(|i| (i / per_image) as u32).collect();
        let own = z.index_select(&Tensor::new(rows, z.device())?, 0)?;
        if own.dims() != found.dims() {
            return Err(Error::shape(format!(
                "expected z of shape (batch, {}), as layer {} computes it, found {:?}",
                found.dim(1)?,
                greybox.layer(),
                z.dims()
            )));
        }
        all.extend(lengths(&found, &own)?);
    }
    finite(all, "the images")
}

/// The Euclidean lengths of the rows of `a` − `b`.
fn lengths(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let a = wide(a)?;
    let b = Placement::of(&a).take(b)?;
    values(&(a - b)?.sqr()?.sum(1)?.sqrt()?)
}

fn finite(distances: Vec<f64>, of: &str) -> Result<Vec<f64>> {
    match distances.iter().position(|d| !d.is_finite()) {
        None => Ok(distances),
        Some(index) => Err(Error::invalid(format!(
            "expected finite distances to z, found {} for row {index}: check {of} for NaN and \
             infinite values",
            distances[index]
        ))),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The median; of an even number of values, the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (sorted[half - 1] + sorted[half]) / 2.0,
        _ => sorted[half],
    }
}

/// Formats a distance with three significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (2.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}
