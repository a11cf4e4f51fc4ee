use crate::{Error, Result};
use candle_core::{Device, Shape, Tensor};
use rand::{Rng as _, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// A seeded generator: same seed, same numbers, on every machine and for any number of threads.
///
/// candle's own CPU generator cannot be seeded. Independent streams come from a seed and a name
/// ([`Rng::named`]) or a seed, a name and a step ([`Rng::at`]), so that training resumed at a step
/// draws what it would have drawn without the interruption.
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
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self::named(seed, "")
    }

    /// An independent stream of a seed for a purpose, e.g. a parameter's name.
    pub fn named(seed: u64, name: &str) -> Self {
        Self::at(seed, name, 0)
    }

    /// An independent stream of a seed for a purpose and a step of it.
    pub fn at(seed: u64, name: &str, step: u64) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.update(&step.to_le_bytes());
        hash.update(name.as_bytes());
        Self(ChaCha8Rng::from_seed(*hash.finalize().as_bytes()))
    }

    /// A generator seeded from this one's next number.
    pub fn fork(&mut self) -> Self {
        let seed = self.0.next_u64();
        Self::new(seed)
    }

    /// A number in [0, 1).
    pub fn f32(&mut self) -> f32 {
        self.0.random()
    }

    /// A number in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.f32()
    }

    /// A standard normal number.
    pub fn normal_f32(&mut self) -> f32 {
        self.0.sample(StandardNormal)
    }

    /// A whole number in [0, n); 0 where n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.random_range(0..n) }
    }

    /// Whole numbers 0 … n−1 in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut p: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i + 1));
        }
        p
    }

    /// Standard normal numbers, f32.
    pub fn normal(&mut self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| self.normal_f32()).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Numbers uniform in [low, high), f32.
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
                "uniform numbers need low < high, found {low} and {high}"
            )));
        }
        let shape = shape.into();
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| self.range(low, high))
            .collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}
