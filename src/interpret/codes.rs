//! [`Codes`], the training data of t: codes of images and their representations at a layer.

use crate::autoencoder::{Autoencoder, Posterior};
use crate::backbone::{Greybox, rows_on};
use crate::data::{Dataset, Factors, Split};
use crate::flow::{Condition, Flow};
use crate::ops::{Placement, Rng};
use crate::{Error, Result};
use candle_core::{Device, Tensor};

/// The training data of t: for each image the distribution of its code z̄ and its representation
/// z.
///
/// E and the network under study are frozen, so both are computed once. Each training step
/// samples new codes from the posterior, as in the paper.
///
/// Both are kept in the computer's main memory, in the number types in which they were computed,
/// so that many images do not fill the memory of a GPU. Only [`Codes::draw`] returns tensors on
/// the device of E.
#[derive(Clone, Debug)]
pub struct Codes {
    posterior: Posterior,
    z: Tensor,
    /// The device and the number type of E.
    placement: Placement,
    /// The shape of one image's z before flattening.
    shape: Vec<usize>,
    labels: Tensor,
    factors: Factors,
    id: String,
}

impl Codes {
    /// Applies E and Φ to the first `count` images of a split. z is the output of the greybox's
    /// layer, flattened to (count, n).
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::autoencoder::ConvVaeConfig;
    /// use invariances::backbone::squeezenet_small;
    /// let network = squeezenet_small(10, &Params::new(0).root())?;
    /// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
    /// let digits = Digits::strokes(32, 0)?;
    /// let codes = Codes::of(&vae, &network.at("pool")?, &digits, Split::Test, 8)?;
    /// assert_eq!(codes.condition(), Condition::Vector(128));
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for no images; [`Error::Shape`] if the images do not fit E or the
    /// network.
    pub fn of(
        autoencoder: &dyn Autoencoder,
        greybox: &Greybox,
        dataset: &dyn Dataset,
        split: Split,
        count: usize,
    ) -> Result<Self> {
        let one = std::slice::from_ref(greybox);
        let all = Self::of_all(autoencoder, one, dataset, split, count)?;
        let first = all.into_iter().next();
        first.ok_or_else(|| Error::invalid("expected at least one layer, found 0"))
    }

    /// Computes the codes of the same images for several layers, of one network
    /// ([`Network::at_each`](crate::backbone::Network::at_each)) or of several, in the order of
    /// `greyboxes`. Each image is loaded and encoded once, and layers of one network are computed
    /// in one pass ([`Greybox::encode_all`]). The codes share their memory; each layer's z is
    /// stored separately. The outputs of a network's first layers are large, and z of all `count`
    /// images is kept in main memory.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::autoencoder::ConvVaeConfig;
    /// use invariances::backbone::squeezenet_small;
    /// let network = squeezenet_small(10, &Params::new(0).root())?;
    /// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
    /// let digits = Digits::strokes(32, 0)?;
    /// let layers = network.at_each(&["fire4", "pool"])?;
    /// let codes = Codes::of_all(&vae, &layers, &digits, Split::Test, 8)?;
    /// assert_eq!(codes[0].condition(), Condition::Map { channels: 128, size: 4, down: 0 });
    /// assert_eq!(codes[1].condition(), Condition::Vector(128));
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for no layer or no images; [`Error::Shape`] if the images do not fit E
    /// or a network.
    pub fn of_all(
        autoencoder: &dyn Autoencoder,
        greyboxes: &[Greybox],
        dataset: &dyn Dataset,
        split: Split,
        count: usize,
    ) -> Result<Vec<Self>> {
        let layers = greyboxes.len();
        if count == 0 || layers == 0 {
            return Err(Error::invalid(format!(
                "expected at least one image and one layer, found {count} images and {layers} layers",
            )));
        }
        let (mut mean, mut logvar, mut labels) = (vec![], vec![], vec![]);
        let mut parts: Vec<Vec<Tensor>> = vec![vec![]; layers];
        let mut shapes: Vec<Vec<usize>> = Vec::new();
        let mut factors = Factors::new();
        let mut placement = None;
        for start in (0..count).step_by(128) {
            let batch = dataset.batch(split, start as u64, 128.min(count - start))?;
            let images = batch.images.detach();
            let posterior = autoencoder.encode(&images)?;
            placement = Some(Placement::of(&posterior.mode()));
            mean.push(posterior.mode().detach().to_device(&Device::Cpu)?);
            logvar.push(posterior.logvar().detach().to_device(&Device::Cpu)?);
            let found = Greybox::encode_all(greyboxes, &images)?;
            shapes = found
                .iter()
                .map(|z| z.dims().get(1..).unwrap_or_default().to_vec())
                .collect();
            for (parts, z) in parts.iter_mut().zip(found) {
                parts.push(z.flatten_from(1)?.detach().to_device(&Device::Cpu)?);
            }
            labels.push(batch.labels.to_device(&Device::Cpu)?);
            factors = factors.then(&batch.factors)?;
        }
        let posterior = Posterior::new(&Tensor::cat(&mean, 0)?, &Tensor::cat(&logvar, 0)?)?;
        let labels = Tensor::cat(&labels, 0)?;
        let placement = placement.unwrap_or(Placement::of(&posterior.mode()));
        let each = parts.into_iter().zip(shapes).map(|(parts, shape)| {
            Self {
                posterior: posterior.clone(),
                z: Tensor::cat(&parts, 0)?,
                placement: placement.clone(),
                shape,
                labels: labels.clone(),
                factors: factors.clone(),
                id: String::new(),
            }
            .identified("")
        });
        each.collect()
    }

    /// Sets the hash of the content, which identifies the networks that are trained on these codes.
    fn identified(mut self, variant: &str) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        hash.update(variant.as_bytes());
        for tensor in [&self.posterior.mode(), &self.posterior.logvar(), &self.z] {
            let mut bytes = Vec::new();
            tensor.write_bytes(&mut bytes)?;
            hash.update(&bytes);
        }
        self.id = hash.finalize().to_hex().to_string();
        Ok(self)
    }

    /// The identifier of these codes: a hash of the posteriors and of z.
    pub fn id(&self) -> String {
        self.id.clone()
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.z.dims().first().copied().unwrap_or(0)
    }

    /// Whether there are no images; always false for codes from [`Codes::of`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of dimensions of a code.
    pub fn code(&self) -> usize {
        self.posterior.mode().dims().get(1).copied().unwrap_or(0)
    }

    /// The representations z, (count, n), on the CPU.
    pub fn z(&self) -> Tensor {
        self.z.clone()
    }

    /// The condition of t ([`Condition::of`] the shape of z).
    pub fn condition(&self) -> Condition {
        Condition::of(&self.shape)
    }

    /// The class labels, u32 (count,).
    pub fn labels(&self) -> Tensor {
        self.labels.clone()
    }

    /// The factors of variation of the images.
    pub fn factors(&self) -> Factors {
        self.factors.clone()
    }

    /// The true foreground and background colours, each (count, 3) in [0, 1]; (0, 3) if they are
    /// not known.
    pub fn colours(&self) -> Result<(Tensor, Tensor)> {
        let tensor = |colours: Vec<[f32; 3]>| {
            let shape = (colours.len(), 3);
            Tensor::from_vec(colours.concat(), shape, self.z.device())
        };
        Ok((
            tensor(self.factors.foreground())?,
            tensor(self.factors.background())?,
        ))
    }

    /// The most probable code of each image, the mode of its posterior: (count, code), on the CPU.
    pub fn modes(&self) -> Tensor {
        self.posterior.mode()
    }

    /// Samples a code z̄ for every image from its posterior, (count, code), on the CPU.
    pub fn sample(&self, rng: &mut Rng) -> Result<Tensor> {
        self.posterior.sample(rng)
    }

    /// Samples z̄ from the posterior for `count` randomly chosen images, and returns it with
    /// their z. Both are on the device of E.
    pub fn draw(&self, count: usize, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        self.draw_from(self.len(), count, rng)
    }

    /// As [`Codes::draw`], from the first `seen` images only.
    pub(super) fn draw_from(
        &self,
        seen: usize,
        count: usize,
        rng: &mut Rng,
    ) -> Result<(Tensor, Tensor)> {
        let chosen = (0..count).map(|_| rng.below(seen) as u32).collect();
        let (code, z) = self.sampled(chosen, rng)?;
        let device = &self.placement.device;
        Ok((code.to_device(device)?, z.to_device(device)?))
    }

    /// Samples z̄ from the posterior of each of these images, and returns it with their z. Both stay
    /// where the codes are stored.
    pub(super) fn sampled(&self, chosen: Vec<u32>, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        let chosen = Tensor::new(chosen, self.z.device())?;
        let code = self.posterior.select(&chosen)?.sample(rng)?;
        Ok((code, self.z.index_select(&chosen, 0)?))
    }

    /// v = t(z̄ | z) of every image, with z̄ sampled from its posterior: (count, code), without a
    /// graph and on the CPU.
    pub fn invariances(&self, t: &dyn Flow, rng: &mut Rng) -> Result<Tensor> {
        let frozen = t.frozen();
        let (t, code) = (frozen.as_deref().unwrap_or(t), self.sample(rng)?);
        let device = &self.placement.device;
        let mut v = Vec::new();
        for start in (0..self.len()).step_by(512) {
            let count = 512.min(self.len() - start);
            let code = rows_on(device, &code, start, count)?;
            let z = rows_on(device, &self.z, start, count)?;
            v.push(
                t.latent(&code, Some(&z))?
                    .detach()
                    .to_device(&Device::Cpu)?,
            );
        }
        Ok(Tensor::cat(&v, 0)?)
    }

    /// The same codes with the representations of other images: a control in which z contains no
    /// information about z̄.
    pub fn shuffled(&self, seed: u64) -> Result<Self> {
        let order = Rng::named(seed, "shuffled z").permutation(self.len());
        let order = Tensor::new(order, self.z.device())?;
        Self {
            z: self.z.index_select(&order, 0)?,
            ..self.clone()
        }
        .identified("shuffled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::{ConvVae, ConvVaeConfig};
    use crate::backbone::{Network, squeezenet_small};
    use crate::data::Digits;
    use crate::flow::{Cinn, CinnConfig};
    use crate::interpret::{Probe, ProbeConfig};
    use crate::ops::{Params, values};
    use candle_core::DType;

    /// Codes have the number type of the networks, and so has what is computed from them. The
    /// invariances do not depend on how many images t takes at once.
    #[test]
    fn codes_keep_the_number_type_of_their_networks() -> Result<()> {
        let exact = |seed: u64| Params::with(seed, DType::F64, &Device::Cpu);
        let network = squeezenet_small(10, &exact(0).root())?;
        let vae = ConvVae::new(&ConvVaeConfig::default(), &exact(1).root())?;
        let digits = Digits::strokes(32, 0)?;
        let codes = Codes::of(&vae, &network.at("pool")?, &digits, Split::Test, 6)?;
        let (code, z) = codes.draw(4, &mut Rng::new(2))?;
        for x in [&code, &z, &codes.z(), &codes.sample(&mut Rng::new(2))?] {
            assert_eq!(x.dtype(), DType::F64);
        }
        let config = CinnConfig {
            flows: 2,
            hidden: 16,
            ..CinnConfig::new(codes.code(), codes.condition())
        };
        let t = Cinn::new(&config, &exact(3).root())?;
        let v = codes.invariances(&t, &mut Rng::new(4))?;
        let sample = codes.sample(&mut Rng::new(4))?;
        let (all_at_once, _) = t.detached().forward(&sample, &codes.z())?;
        assert_eq!(values(&v)?, values(&all_at_once)?);
        // A probe takes features of another number type than it was trained on.
        let config = ProbeConfig {
            steps: 2,
            ..ProbeConfig::default()
        };
        let probe = Probe::train(&codes.z(), &codes.labels(), &config)?;
        let rounded = codes.z().to_dtype(DType::F32)?;
        assert_eq!(probe.right(&rounded, &codes.labels())?.len(), 6);
        Ok(())
    }
}
