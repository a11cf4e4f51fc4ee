//! Photographs from folders or parquet files as a dataset for training, with splits and
//! augmentation.

use super::dataset::{Attribute, Dataset, check_size, unknown_concept};
use super::{Batch, Factors, Images, Split};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_ops::Rng;
use rayon::prelude::*;
use std::sync::Arc;

/// The largest number of classes; ImageNet-21k has 21,841.
const MAX_CLASSES: u32 = 100_000;

/// The images of a folder or of parquet files as a [`Dataset`], so that everything that is trained
/// on synthetic datasets can be trained on photographs.
///
/// The only known factor is the class. Images without labels ([`Images::labels`] is `None`) have
/// no classes. An encoder E and a decoder D can be trained on them, and a network can be
/// evaluated on them, but nothing that needs a class is possible, such as training a classifier
/// or [`Dataset::pairs`].
///
/// The images are split at random by the seed: 4/5 for training, 1/10 for validation, 1/10 for
/// test. Training images are mirrored and shifted at random by at most 1/16 of their side, and
/// repeat without end. Images of the other splits are not changed and repeat in a fixed order.
/// All images are kept in memory, one byte per value.
///
/// ```no_run
/// use invariances_data::*;
/// let animals = Photographs::new(&Images::folder("animals")?, 64, 0)?; // a folder of class folders
/// let batch = animals.batch(Split::Train, 0, 8)?;
/// assert_eq!(batch.images.dims(), [8, 3, 64, 64]);
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Photographs {
    size: usize,
    seed: u64,
    id: String,
    classes: Vec<String>,
    pixels: Arc<Vec<u8>>,
    labels: Arc<Vec<u32>>,
    /// Image indices of each split: train, validation, test.
    splits: Arc<[Vec<usize>; 3]>,
}

impl Photographs {
    /// Decodes all images to `size` × `size` pixels.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the size is from 16 to 128; for fewer than ten images; for
    /// labels of 100,000 or more; or if memory is insufficient. [`Error::Content`] if an image
    /// cannot be read.
    pub fn new(images: &Images, size: usize, seed: u64) -> Result<Self> {
        check_size("photographs", size, 16)?;
        let count = images.len();
        if count < 10 {
            return Err(Error::invalid(format!(
                "expected at least ten images to split into train, validation and test, found {count}"
            )));
        }
        let known = images.labels();
        // Classes without a name are named by their number, up to the largest label.
        let max = known.iter().flatten().max().copied().unwrap_or(0);
        if max >= MAX_CLASSES {
            return Err(Error::invalid(format!(
                "expected labels below {MAX_CLASSES}, found {max}: such labels identify images, not classes; select another label column, or none (`label: None`)"
            )));
        }
        let mut pixels: Vec<u8> = Vec::new();
        let wanted = count.checked_mul(3 * size * size);
        if wanted.is_none_or(|n| pixels.try_reserve_exact(n).is_err()) {
            return Err(Error::invalid(format!(
                "not enough memory for {count} images of {size}×{size} pixels: choose fewer images (`images.split`) or a smaller size"
            )));
        }
        let mut labels = Vec::with_capacity(count);
        for start in (0..count).step_by(256) {
            let rows: Vec<usize> = (start..count.min(start + 256)).collect();
            let batch = images.batch(&rows, size)?;
            let values = batch.images.flatten_all()?.to_vec1::<f32>()?;
            pixels.extend(values.iter().map(|v| (v * 127.5 + 127.5).round() as u8));
            labels.extend(batch.labels.to_vec1::<u32>()?);
        }
        let order = Rng::named(seed, "photographs").permutation(count);
        let order: Vec<usize> = order.into_iter().map(|i| i as usize).collect();
        let held = (count / 10).max(1);
        let (test, rest) = order.split_at(held);
        let (validation, train) = rest.split_at(held);
        let classes = match known {
            None => Vec::new(),
            Some(_) => {
                let mut classes = images.classes();
                classes.extend((classes.len()..max as usize + 1).map(|label| label.to_string()));
                classes
            }
        };
        Ok(Self {
            size,
            seed,
            id: format!("photographs-{}-size{size}-seed{seed}", images.hash()?),
            classes,
            pixels: Arc::new(pixels),
            labels: Arc::new(labels),
            splits: Arc::new([train.to_vec(), validation.to_vec(), test.to_vec()]),
        })
    }

    /// Returns the number of images in a split. [`Dataset::batch`] starts again after the last one.
    pub fn len(&self, split: Split) -> usize {
        self.of(split).len()
    }

    /// Returns the number of images of each class in all splits together; empty for images
    /// without labels.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.labels.iter() {
            if let Some(count) = counts.get_mut(*label as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// Whether a split has no images; always false for datasets made by [`Photographs::new`].
    pub fn is_empty(&self, split: Split) -> bool {
        self.of(split).is_empty()
    }

    fn of(&self, split: Split) -> &[usize] {
        let [train, validation, test] = &*self.splits;
        match split {
            Split::Train => train,
            Split::Validation => validation,
            Split::Test => test,
        }
    }

    /// Returns these images as a batch. Each has the random generator of its augmentation, or
    /// `None` for no augmentation.
    fn show(&self, chosen: &[(usize, Option<Rng>)]) -> Result<Batch> {
        let (side, numbers) = (self.size as isize, 3 * self.size * self.size);
        let most = (side / 16).max(1);
        let mut values = vec![0f32; chosen.len() * numbers];
        values
            .par_chunks_mut(numbers)
            .zip(chosen)
            .for_each(|(out, (image, change))| {
                let source = &self.pixels[image * numbers..(image + 1) * numbers];
                let (mut mirror, mut shift) = (false, (0, 0));
                if let Some(rng) = change {
                    let mut rng = rng.clone();
                    let step = |rng: &mut Rng| rng.below(2 * most as usize + 1) as isize - most;
                    mirror = rng.below(2) == 1;
                    shift = (step(&mut rng), step(&mut rng));
                }
                for (i, value) in out.iter_mut().enumerate() {
                    let (plane, place) = (i as isize / (side * side), i as isize % (side * side));
                    // Pixels that are shifted in repeat the edge.
                    let y = (place / side + shift.0).clamp(0, side - 1);
                    let x = (place % side + shift.1).clamp(0, side - 1);
                    let x = if mirror { side - 1 - x } else { x };
                    let byte = source[(plane * side * side + y * side + x) as usize];
                    *value = f32::from(byte) / 127.5 - 1.0;
                }
            });
        let labels: Vec<u32> = chosen.iter().map(|(i, _)| self.labels[*i]).collect();
        let shape = (chosen.len(), 3, self.size, self.size);
        let tensor = Tensor::new(labels.as_slice(), &Device::Cpu)?;
        let mut factors = Factors::new();
        if !self.classes.is_empty() {
            factors = factors.with_whole("class", labels)?;
        }
        Ok(Batch {
            images: Tensor::from_vec(values, shape, &Device::Cpu)?,
            labels: tensor,
            factors,
        })
    }

    fn change(&self, split: Split, index: u64) -> Option<Rng> {
        (split == Split::Train).then(|| Rng::at(self.seed, "photographs/change", index))
    }
}

impl Dataset for Photographs {
    fn size(&self) -> usize {
        self.size
    }

    fn id(&self) -> String {
        self.id.clone()
    }

    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    fn attributes(&self) -> Vec<Attribute> {
        if self.classes.is_empty() {
            return Vec::new();
        }
        let names: Vec<&str> = self.classes.iter().map(String::as_str).collect();
        vec![Attribute::class("class", &names)]
    }

    fn concepts(&self) -> Vec<String> {
        match self.classes.is_empty() {
            true => Vec::new(),
            false => vec!["class".into()],
        }
    }

    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        if indices.is_empty() {
            return Err(Error::invalid("expected at least one sample, found 0"));
        }
        let images = self.of(split);
        let chosen = indices.iter().map(|&index| {
            let (turn, place) = (index / images.len() as u64, index % images.len() as u64);
            // Each pass through the training images has its own order.
            let place = match split {
                Split::Train => self.shuffled(turn, place as usize),
                _ => place as usize,
            };
            (images[place], self.change(split, index))
        });
        self.show(&chosen.collect::<Vec<_>>())
    }

    fn pairs(
        &self,
        split: Split,
        start: u64,
        count: usize,
        concept: &str,
    ) -> Result<(Batch, Batch)> {
        if self.classes.is_empty() {
            return Err(Error::unsupported(format!(
                "expected images with classes for pairs that share {concept:?}, found images with no labels: put them in a folder per class, or select the label column (`ImageColumns`; in INVARIANCES_IMAGES: file.parquet?label=COLUMN)"
            )));
        }
        if concept != "class" {
            return Err(unknown_concept(concept, self));
        }
        if count == 0 {
            return Err(Error::invalid("expected at least one pair, found 0"));
        }
        let images = self.of(split);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for index in start..start.saturating_add(count as u64) {
            let mut rng = Rng::at(
                self.seed,
                &format!("photographs/pairs/{}", split.name()),
                index,
            );
            let first = images[rng.below(images.len())];
            let alike: Vec<usize> = images
                .iter()
                .copied()
                .filter(|i| self.labels[*i] == self.labels[first])
                .collect();
            let second = alike[rng.below(alike.len())];
            let changed = split == Split::Train;
            let mut change = || changed.then(|| Rng::new(rng.below(usize::MAX) as u64));
            a.push((first, change()));
            b.push((second, change()));
        }
        Ok((self.show(&a)?, self.show(&b)?))
    }
}

impl Photographs {
    /// Returns the index of the training image at position `place` of pass `turn`: a permutation
    /// that needs no memory.
    fn shuffled(&self, turn: u64, place: usize) -> usize {
        let n = self.of(Split::Train).len();
        let mut rng = Rng::at(self.seed, "photographs/turn", turn);
        let offset = rng.below(n);
        // A stride that is coprime to `n` visits every position once.
        let mut stride = 1 + rng.below(n.max(2) - 1);
        while gcd(stride, n) != 1 {
            stride = 1 + stride % n;
        }
        (offset + place * stride) % n
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photographs(count: usize) -> Result<Photographs> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        for i in 0..count {
            let place = folder.path().join(["cat", "dog"][i % 2]);
            std::fs::create_dir_all(&place).map_err(|e| Error::io(&place, e))?;
            let shade = (i * 7 % 256) as u8;
            let mut image = image::RgbImage::from_pixel(20, 20, image::Rgb([shade, 10, 200]));
            for (x, y) in (0..25).map(|n| (n % 5, n / 5)) {
                image.put_pixel(x, y, image::Rgb([255, 255, 255]));
            }
            let file = place.join(format!("{i}.png"));
            image
                .save(&file)
                .map_err(|e| Error::content(&file, e.to_string()))?;
        }
        Photographs::new(&Images::folder(folder.path())?, 16, 3)
    }

    #[test]
    fn splits_are_disjoint_and_every_turn_shows_every_image_once() -> Result<()> {
        let dataset = photographs(43)?;
        let all: Vec<usize> = [Split::Train, Split::Validation, Split::Test]
            .iter()
            .flat_map(|s| dataset.of(*s).to_vec())
            .collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (43, 43));
        assert_eq!(dataset.len(Split::Test), 4);
        assert_eq!(dataset.counts(), [22, 21]);
        let n = dataset.len(Split::Train);
        for turn in 0..5 {
            let places: std::collections::BTreeSet<_> =
                (0..n).map(|p| dataset.shuffled(turn, p)).collect();
            assert_eq!(places.len(), n);
        }
        assert_ne!(
            (0..n).map(|p| dataset.shuffled(0, p)).collect::<Vec<_>>(),
            (0..n).map(|p| dataset.shuffled(1, p)).collect::<Vec<_>>()
        );
        Ok(())
    }

    #[test]
    fn training_images_change_and_the_others_stay() -> Result<()> {
        let dataset = photographs(30)?;
        let n = dataset.len(Split::Test) as u64;
        let values = |b: Batch| -> Result<Vec<f32>> { Ok(b.images.flatten_all()?.to_vec1()?) };
        let of = |split, i| -> Result<Vec<f32>> { values(dataset.take(split, &[i])?) };
        assert_eq!(of(Split::Test, 1)?, of(Split::Test, 1 + n)?);
        assert_eq!(of(Split::Train, 5)?, of(Split::Train, 5)?);
        // Augmentation: among 200 training samples, the white corner appears in more than three
        // variants.
        let one = dataset.take(Split::Train, &(0..200).collect::<Vec<u64>>())?;
        let mut corners = std::collections::BTreeSet::new();
        for i in 0..200 {
            let image = one.images.get(i)?.flatten_all()?.to_vec1::<f32>()?;
            corners.insert(image[..256].iter().map(|v| *v > 0.9).collect::<Vec<_>>());
        }
        assert!(corners.len() > 3, "{}", corners.len());
        let (a, b) = dataset.pairs(Split::Train, 0, 20, "class")?;
        assert_eq!(a.labels.to_vec1::<u32>()?, b.labels.to_vec1::<u32>()?);
        assert!(dataset.pairs(Split::Train, 0, 2, "hat").is_err());
        assert!(photographs(9).is_err());
        Ok(())
    }
}
