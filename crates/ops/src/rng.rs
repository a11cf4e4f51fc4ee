//! The seeded random number generator [`Rng`].

use crate::{Error, Result};
use candle_core::{Device, Shape, Tensor};
use rand::{Rng as _, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// A seeded random number generator: the same seed gives the same numbers on every machine and
/// for any number of threads.
///
/// candle's own CPU generator cannot be seeded. A seed and a name ([`Rng::named`]), or a seed, a
/// name and a step ([`Rng::at`]), give independent streams. Training that resumes at a step
/// therefore draws the same numbers as a run without interruption.
///
/// ```
/// use candle_core::Device;
/// use invariances_ops::Rng;
/// let mut rng = Rng::new(7);
/// let v = rng.normal((2, 3), &Device::Cpu)?;
/// assert_eq!(v.dims(), [2, 3]);
/// assert_eq!(Rng::new(7).f32(), Rng::new(7).f32());
/// # Ok::<(), invariances_ops::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// Creates the generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self::named(seed, "")
    }

    /// Creates an independent stream of a seed for a purpose, e.g. the name of a parameter.
    pub fn named(seed: u64, name: &str) -> Self {
        Self::at(seed, name, 0)
    }

    /// Creates an independent stream of a seed for a purpose and a step, e.g. of training.
    pub fn at(seed: u64, name: &str, step: u64) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.update(&step.to_le_bytes());
        hash.update(name.as_bytes());
        Self(ChaCha8Rng::from_seed(*hash.finalize().as_bytes()))
    }

    /// Creates a generator that is seeded with the next number of this one.
    pub fn fork(&mut self) -> Self {
        let seed = self.0.next_u64();
        Self::new(seed)
    }

    /// Samples a number uniformly from [0, 1).
    pub fn f32(&mut self) -> f32 {
        self.0.random()
    }

    /// Samples a number uniformly from [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.f32()
    }

    /// Samples a standard normal number.
    pub fn normal_f32(&mut self) -> f32 {
        self.0.sample(StandardNormal)
    }

    /// Samples an integer uniformly from [0, n); returns 0 if n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.random_range(0..n) }
    }

    /// Returns the integers 0 … n−1 in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut p: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i + 1));
        }
        p
    }

    /// Samples a tensor of standard normal numbers in f32.
    pub fn normal(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.normal_f32()).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Samples a tensor of numbers uniformly from [low, high) in f32.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless low < high.
    pub fn uniform(
        &mut self,
        low: f32,
        high: f32,
        shape: impl Into<Shape>,
        device: &Device,
    ) -> Result<Tensor> {
        if low.partial_cmp(&high) != Some(std::cmp::Ordering::Less) {
            return Err(Error::invalid(format!(
                "expected low < high for uniform samples, found low = {low} and high = {high}"
            )));
        }
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| self.range(low, high))
            .collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}
