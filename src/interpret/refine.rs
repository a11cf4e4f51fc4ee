//! [`Samples::refine`]: moves samples until their representation is as near to z as that of the
//! reconstruction.

use super::fidelity::median;
use super::{Fidelity, Samples};
use crate::autoencoder::Autoencoder;
use crate::backbone::Greybox;
use crate::flow::Flow;
use crate::metric::Resampled;
use crate::ops::widened as wide;
use crate::ops::{Placement, backward, host, values};
use crate::{Error, Result};
use candle_core::{DType, Tensor, Var};
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::fmt;

/// The share of all v ~ N(0, 1) whose length is in the interval in which v stays.
const TYPICAL: f64 = 0.95;

/// The share of the limit that steps aim at: those that aimed at the limit itself would come nearer
/// and nearer to it and never reach it.
const AIM: f64 = 0.95;

/// The factor of the step after a step that came nearer to z. A step that did not is undone and
/// tried again with half of its length.
const LONGER: f64 = 1.5;

/// Settings of [`Samples::refine`].
///
/// ```
/// use invariances::interpret::RefineConfig;
/// let thorough = RefineConfig { steps: 200, ..Default::default() };
/// assert_eq!(thorough.batch, 64);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RefineConfig {
    /// The largest number of steps of a sample. A step evaluates t⁻¹, D and the network once
    /// forward and once backward.
    pub steps: usize,
    /// The longest step, as a share of the length of v. Longer ones leave the region in which the
    /// gradient describes the distance.
    pub longest: f64,
    /// The number of samples that are moved at once.
    pub batch: usize,
}

impl Default for RefineConfig {
    fn default() -> Self {
        Self {
            steps: 50,
            longest: 0.1,
            batch: 64,
        }
    }
}

/// Samples that were moved until their representation was as near to z as that of the
/// reconstruction, with the steps, the distances and the movement of each. [`Samples::refine`]
/// returns it.
#[derive(Clone, Debug)]
pub struct Refined {
    samples: Samples,
    layer: String,
    fates: Vec<Fate>,
    dim: usize,
}

/// What became of one sample.
#[derive(Clone, Debug)]
struct Fate {
    /// The distance at which the sample is as near to z as its original's reconstruction.
    limit: f64,
    before: f64,
    after: f64,
    steps: usize,
    moved: f64,
}

impl Fate {
    fn reached(&self) -> bool {
        self.after <= self.limit
    }
}

impl Samples {
    /// Moves each sample until the network at its layer represents it as near to z as the
    /// reconstruction D(E(x)) of its original: until ‖Φ(D(t⁻¹(v | z))) − z‖ is at most
    /// ‖Φ(D(E(x))) − z‖. Only then "the same to the layer" is a measured statement about each
    /// sample, and not a property that t was trained for. Images that a network cannot tell apart
    /// although they differ are its metamers (Feather, Leclerc, Mądry, McDermott 2023, Model
    /// metamers reveal divergent invariances between biological and artificial neural networks).
    ///
    /// v is moved along the gradient of the distance. The length of a step is Polyak's, (distance −
    /// 0.95 limit) / ‖gradient‖², which is exact where the distance falls at a constant rate; it is
    /// at most `longest` times the length of v, and halved after a step that did not come nearer. v
    /// keeps a length that 95 % of all draws from N(0, 1) have (or its own first length, if that
    /// is an unusual one), so a refined v is not closer to the most likely image than a drawn one.
    /// It is no longer a draw from N(0, 1) independent of z: [`Refined::moved`] says how far it is
    /// from the v that was drawn. A sample that does not reach the limit within the steps stays at its
    /// nearest place; [`Refined::reached`] is the share of the others.
    ///
    /// `fidelity` knows the layer, z and the distances of the reconstructions. It must be that of
    /// these samples, or of more originals of which these are the first. Use a frozen network
    /// ([`Backbone::frozen`](crate::backbone::Backbone::frozen)): gradients of its weights would be
    /// computed in each step, and dropped.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::interpret::{Fidelity, RefineConfig};
    /// let networks = DigitsNetworks::load(&Digits::strokes(32, 0)?, 0, &Store::cache()?)?;
    /// let images = Digits::strokes(32, 0)?.batch(Split::Test, 0, 2)?.images;
    /// let layer = networks.classifier.frozen()?.at("pool")?;
    /// let z = layer.encode(&images)?;
    /// let t = Cinn::new(&CinnConfig::new(48, Condition::Vector(z.dim(1)?)), &Params::new(0).root())?;
    /// let samples = Samples::draw(&t, &networks.autoencoder, &z, 1, &mut Rng::new(0))?;
    /// let decoded = networks.autoencoder.reconstruct(&images)?;
    /// let fidelity = Fidelity::of(&layer, &z, &decoded, &samples)?;
    /// let config = RefineConfig { steps: 2, ..Default::default() };
    /// let refined = samples.refine(&t, &networks.autoencoder, &fidelity, &config)?;
    /// println!("{refined}");
    /// let fidelity = fidelity.with("refined", refined.samples())?;
    /// assert!(fidelity.multiple("refined", 0)?.value() < fidelity.multiple("samples", 0)?.value());
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] for samples that were not drawn by t ([`Samples::of`]), and if no
    /// gradient passes through the network; [`Error::Shape`] if the fidelity is one of fewer
    /// samples; [`Error::Invalid`] if it is one of other samples, for no steps or a longest step that
    /// is not above 0, and if a sample has no finite distance to z.
    pub fn refine(
        &self,
        t: &dyn Flow,
        autoencoder: &dyn Autoencoder,
        fidelity: &Fidelity,
        config: &RefineConfig,
    ) -> Result<Refined> {
        let codes = self.codes().ok_or_else(|| {
            Error::unsupported(
                "only samples that t drew (`Samples::draw`) have a v that can be moved, found \
                 images of another method",
            )
        })?;
        config.check()?;
        let frozen = t.frozen();
        let t = frozen.as_deref().unwrap_or(t);
        let greybox = fidelity.greybox();
        if let Some(why) = greybox.network().no_gradient() {
            return Err(Error::unsupported(format!(
                "refining samples needs a gradient with respect to the image, and none passes \
                 through {}: {why}",
                greybox.network().name()
            )));
        }
        let (count, dim) = codes.dims2()?;
        let per_image = self.per_image();
        let (z, floor) = (fidelity.z(), fidelity.floor());
        let (stated, each) = fidelity.of_samples();
        if stated.len() < count || each != per_image {
            return Err(Error::shape(format!(
                "expected the fidelity of these samples, {per_image} of each of {} originals, found \
                 that of {each} of each of {}",
                count / per_image,
                floor.len()
            )));
        }
        let (mut parts, mut fates) = (Vec::new(), Vec::new());
        for start in (0..count).step_by(config.batch) {
            let size = config.batch.min(count - start);
            let owners: Vec<u32> = (start..start + size)
                .map(|i| (i / per_image) as u32)
                .collect();
            let limits = owners.iter().map(|i| floor[*i as usize]).collect();
            let z = z.index_select(&Tensor::new(owners, z.device())?, 0)?;
            let v = t.latent(&codes.narrow(0, start, size)?, Some(&z))?;
            let problem = Problem {
                t,
                autoencoder,
                greybox,
                z: z.detach(),
                placement: Placement::of(&v),
            };
            let (start_v, found) = problem.start(&v.detach())?;
            check_same(&found, &stated[start..start + size])?;
            let (codes, moved) = problem.solve(&start_v, found, limits, config)?;
            parts.push(codes);
            fates.extend(moved);
        }
        let codes = Tensor::cat(&parts, 0)?;
        Ok(Refined {
            samples: Samples::of_codes(&codes, autoencoder, per_image)?,
            layer: fidelity.layer(),
            fates,
            dim,
        })
    }
}

/// Checks whether the distances of samples are those that their fidelity states. They are computed
/// from t(t⁻¹(v)) here, so they differ a little.
fn check_same(found: &[Found], stated: &[f64]) -> Result<()> {
    let apart = found
        .iter()
        .zip(stated)
        .map(|((found, _), stated)| (found - stated).abs());
    let (apart, all) = (apart.sum::<f64>(), stated.iter().sum::<f64>());
    if apart <= 0.1 * all {
        return Ok(());
    }
    Err(Error::invalid(
        "expected the fidelity of these samples, found that of others, whose distances to z differ: \
         samples that were selected must be those of the first originals, in their order",
    ))
}

impl RefineConfig {
    fn check(&self) -> Result<()> {
        if self.steps == 0 || self.batch == 0 || self.longest.is_nan() || self.longest <= 0.0 {
            return Err(Error::invalid(format!(
                "expected at least one step, a batch of at least one sample and a longest step \
                 above 0, found {self:?}"
            )));
        }
        Ok(())
    }
}

/// The samples of a batch and the z that each of them should have.
struct Problem<'a> {
    t: &'a dyn Flow,
    autoencoder: &'a dyn Autoencoder,
    greybox: &'a Greybox,
    z: Tensor,
    /// That of v.
    placement: Placement,
}

/// The distance of a sample to z, and its gradient with respect to v.
type Found = (f64, Vec<f64>);

/// Where a sample is in the search.
struct Place {
    v: Vec<f64>,
    gradient: Vec<f64>,
    distance: f64,
    factor: f64,
    steps: usize,
}

impl Problem<'_> {
    /// Returns v (n, d) row by row, and the distance and the gradient of each row.
    fn start(&self, v: &Tensor) -> Result<(Vec<Vec<f64>>, Vec<Found>)> {
        let start = rows(v)?;
        let all: Vec<u32> = (0..start.len() as u32).collect();
        let found = self.evaluate(&start, &all, &Placement::of(v))?;
        if let Some((distance, _)) = found.iter().find(|(d, _)| !d.is_finite()) {
            return Err(Error::invalid(format!(
                "expected finite distances to z, found {distance}: check t, D and the network for \
                 NaN and infinite values"
            )));
        }
        Ok((start, found))
    }

    /// Moves v, with its distances and gradients, and returns the codes and what became of each
    /// sample.
    fn solve(
        &self,
        start: &[Vec<f64>],
        found: Vec<Found>,
        limits: Vec<f64>,
        config: &RefineConfig,
    ) -> Result<(Tensor, Vec<Fate>)> {
        let at = self.placement.clone();
        let all: Vec<u32> = (0..start.len() as u32).collect();
        let mut places: Vec<Place> = found
            .into_iter()
            .zip(start)
            .map(|((distance, gradient), v)| Place {
                v: v.clone(),
                gradient,
                distance,
                factor: 1.0,
                steps: 0,
            })
            .collect();
        let before: Vec<f64> = places.iter().map(|p| p.distance).collect();
        let ranges: Vec<(f64, f64)> = start.iter().map(|v| typical(v)).collect();
        for _ in 0..config.steps {
            let open = |i: &u32| {
                let (place, limit) = (&places[*i as usize], limits[*i as usize]);
                // A gradient of 0 leads nowhere.
                place.distance > limit && place.gradient.iter().any(|g| *g != 0.0)
            };
            let moving: Vec<u32> = all.iter().copied().filter(open).collect();
            if moving.is_empty() {
                break;
            }
            let trials: Vec<Vec<f64>> = moving
                .iter()
                .map(|i| {
                    let i = *i as usize;
                    places[i].trial(limits[i], config.longest, ranges[i])
                })
                .collect();
            let found = self.evaluate(&trials, &moving, &at)?;
            for ((i, v), (distance, gradient)) in moving.iter().zip(trials).zip(found) {
                let place = &mut places[*i as usize];
                place.steps += 1;
                // NaN and infinity are not nearer either.
                if distance < place.distance {
                    let factor = (place.factor * LONGER).min(1.0);
                    *place = Place {
                        v,
                        gradient,
                        distance,
                        factor,
                        steps: place.steps,
                    };
                } else {
                    place.factor /= 2.0;
                }
            }
        }
        let ends: Vec<Vec<f64>> = places.iter().map(|p| p.v.clone()).collect();
        let codes = self.t.inverse(&tensor(&ends, &at)?, Some(&self.z))?;
        let fates = places.iter().zip(start).zip(before.iter().zip(limits));
        let fates = fates.map(|((place, start), (before, limit))| Fate {
            limit,
            before: *before,
            after: place.distance,
            steps: place.steps,
            moved: length(place.v.iter().zip(start).map(|(a, b)| a - b)),
        });
        Ok((codes.detach(), fates.collect()))
    }

    /// Computes the distance to z, and its gradient with respect to v, for each row of `v`, which
    /// belong to the rows `which` of z.
    fn evaluate(&self, v: &[Vec<f64>], which: &[u32], at: &Placement) -> Result<Vec<Found>> {
        let v = Var::from_tensor(&tensor(v, at)?)?;
        let which = Tensor::new(which, self.z.device())?;
        let z = self.z.index_select(&which, 0)?;
        let code = self.t.inverse(v.as_tensor(), Some(&z))?;
        let image = self.autoencoder.decode(&code)?.clamp(-1f32, 1f32)?;
        let found = wide(&self.greybox.encode(&image)?.flatten_from(1)?)?;
        let z = Placement::of(&found).take(&z)?;
        let distance = (found - z)?.sqr()?.sum(1)?.sqrt()?;
        let gradients = backward(&distance.sum_all()?)?;
        let gradient = match gradients.get(v.as_tensor()) {
            Some(gradient) => rows(gradient)?,
            None => {
                return Err(Error::unsupported(format!(
                    "the distance at layer {} has no gradient with respect to v: refining needs \
                     one through t⁻¹, D and the network",
                    self.greybox.layer()
                )));
            }
        };
        let distance = values(&distance)?;
        // Where the distance is 0, its gradient is 0/0.
        let finite = |g: &f64| if g.is_finite() { *g } else { 0.0 };
        let gradient = gradient.iter().map(|row| row.iter().map(finite).collect());
        Ok(distance.into_iter().zip(gradient).collect())
    }
}

impl Place {
    /// Returns the next v to try: a step against the gradient, with a length in `range`.
    fn trial(&self, limit: f64, longest: f64, range: (f64, f64)) -> Vec<f64> {
        let slope = length(self.gradient.iter().copied());
        let polyak = (self.distance - AIM * limit) / (slope * slope);
        let longest = longest * length(self.v.iter().copied()) / slope;
        let step = self.factor * polyak.min(longest);
        let pairs = self.v.iter().zip(&self.gradient);
        let v: Vec<f64> = pairs.map(|(v, g)| v - step * g).collect();
        let size = length(v.iter().copied());
        let scale = size.clamp(range.0, range.1) / size.max(f64::MIN_POSITIVE);
        v.into_iter().map(|x| x * scale).collect()
    }
}

/// Returns the interval of lengths in which a v that starts at `start` stays.
fn typical(start: &[f64]) -> (f64, f64) {
    let own = length(start.iter().copied());
    let Ok(squared) = ChiSquared::new(start.len() as f64) else {
        return (own, own);
    };
    let tail = (1.0 - TYPICAL) / 2.0;
    let low = squared.inverse_cdf(tail).sqrt();
    let high = squared.inverse_cdf(1.0 - tail).sqrt();
    (low.min(own), high.max(own))
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(host(x)?.to_dtype(DType::F64)?.to_vec2::<f64>()?)
}

fn tensor(rows: &[Vec<f64>], at: &Placement) -> Result<Tensor> {
    let width = rows.first().map_or(0, Vec::len);
    let shape = (rows.len(), width);
    let flat = rows.iter().flatten();
    // Not every device has f64.
    Ok(match at.dtype {
        DType::F64 => Tensor::from_vec(flat.copied().collect::<Vec<f64>>(), shape, &at.device)?,
        dtype => {
            let flat: Vec<f32> = flat.map(|x| *x as f32).collect();
            Tensor::from_vec(flat, shape, &at.device)?.to_dtype(dtype)?
        }
    })
}

impl Refined {
    /// Returns the refined samples, in the order of the samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// Returns the share of samples that came as near to z as their original's reconstruction, with
    /// its interval over the originals.
    pub fn reached(&self, seed: u64) -> Resampled {
        let n = self.samples.per_image();
        let shares: Vec<f64> = self
            .fates
            .chunks(n)
            .map(|c| c.iter().filter(|f| f.reached()).count() as f64 / n as f64)
            .collect();
        Resampled::mean(&shares, seed)
    }

    /// Returns how many steps each sample took.
    pub fn steps(&self) -> Vec<usize> {
        self.fates.iter().map(|f| f.steps).collect()
    }

    /// Returns how far each v is from the v that was drawn, as a share of the mean distance of two
    /// draws, about √(2d) for codes of length d: 0 if it was not moved, 1 if it is as far away as
    /// another draw.
    pub fn moved(&self) -> Vec<f64> {
        let apart = (2.0 * self.dim as f64).sqrt();
        self.fates.iter().map(|f| f.moved / apart).collect()
    }

    /// Returns the distance to z of each sample before it was moved.
    pub fn before(&self) -> Vec<f64> {
        self.fates.iter().map(|f| f.before).collect()
    }

    /// Returns the distance to z of each refined sample.
    pub fn after(&self) -> Vec<f64> {
        self.fates.iter().map(|f| f.after).collect()
    }
}

impl fmt::Display for Refined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = self.fates.iter().filter(|f| f.reached()).count();
        let steps: Vec<f64> = self.steps().into_iter().map(|s| s as f64).collect();
        write!(
            f,
            "{}: {reached} of {} samples are as near to z as the reconstruction of their original; \
             {:.0} steps each, v moved by {:.0} % of the distance of two draws (medians)",
            self.layer,
            self.fates.len(),
            median(&steps),
            100.0 * median(&self.moved()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::Posterior;
    use crate::backbone::{Custom, Network};
    use crate::ops::Rng;
    use candle_core::Device;

    /// v is the code.
    struct Identity;

    impl Flow for Identity {
        fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
            Ok((x.clone(), x.zeros_like()?.sum(1)?))
        }

        fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
            Ok(v.clone())
        }

        fn dim(&self) -> Option<usize> {
            None
        }
    }

    /// The code is the image of 3 × 2 × 2 pixels, in tenths.
    struct Tenths;

    impl Autoencoder for Tenths {
        fn code(&self) -> usize {
            12
        }

        fn encode(&self, x: &Tensor) -> Result<Posterior> {
            let code = (x.flatten_from(1)? * 10.0)?;
            Posterior::new(&code, &code.zeros_like()?)
        }

        fn decode(&self, code: &Tensor) -> Result<Tensor> {
            Ok((code.reshape(((), 3, 2, 2))? * 0.1)?)
        }
    }

    /// A layer of the mean of all pixels, or of the mean of each colour.
    fn layer(name: &str) -> Result<Greybox> {
        Custom::new("means")
            .layer("colours", |x: &Tensor| x.mean(3)?.mean(2))
            .layer("grey", |x: &Tensor| x.mean_keepdim(1))
            .at(name)
    }

    /// Two samples each of 20 originals whose z is 0, and reconstructions at this distance from z.
    fn drawn(layer: &Greybox, distance: f32) -> Result<(Samples, Fidelity)> {
        let codes = Rng::new(3).normal((40, 12), &Device::Cpu)?;
        let samples = Samples::of_codes(&codes, &Tenths, 2)?;
        let originals = Tensor::zeros((20, 3, 2, 2), DType::F32, &Device::Cpu)?;
        let z = layer.encode(&originals)?;
        let width = (z.dim(1)? as f64).sqrt();
        let decoded = (originals + f64::from(distance) / width)?;
        let fidelity = Fidelity::of(layer, &z, &decoded, &samples)?;
        Ok((samples, fidelity))
    }

    /// The mean is a linear function of v, so its distance to z falls at a constant rate, and
    /// Polyak's step is the whole way: one step, to 0.95 of the limit, along the gradient, which is
    /// (1, …, 1)/120.
    #[test]
    fn one_step_is_enough_where_the_layer_is_linear() -> Result<()> {
        let (samples, fidelity) = drawn(&layer("grey")?, 0.01)?;
        let config = RefineConfig {
            longest: 10.0,
            ..RefineConfig::default()
        };
        let refined = samples.refine(&Identity, &Tenths, &fidelity, &config)?;
        let (mut moving, mut at_once) = (0, 0);
        for fate in &refined.fates {
            if fate.before <= 0.01 {
                assert_eq!((fate.steps, fate.moved), (0, 0.0));
                continue;
            }
            moving += 1;
            if fate.steps == 1 {
                at_once += 1;
                let expected = (fate.before - fate.after) * 120.0 / 12f64.sqrt();
                assert!((fate.moved - expected).abs() < 1e-3, "{fate:?}");
                assert!((fate.after - 0.0095).abs() < 1e-5, "{fate:?}");
            }
        }
        // An unusual length of v is corrected, which moves the mean again.
        assert!(4 * at_once > 3 * moving, "{at_once} of {moving}");
        assert!(moving > 20, "{moving}");
        Ok(())
    }

    /// Every sample gets there, v keeps a usual length, and the refined images are those whose
    /// distances are reported.
    #[test]
    fn samples_get_as_near_as_reconstructions() -> Result<()> {
        let (samples, fidelity) = drawn(&layer("colours")?, 0.002)?;
        let config = RefineConfig {
            batch: 7,
            ..RefineConfig::default()
        };
        let refined = samples.refine(&Identity, &Tenths, &fidelity, &config)?;
        let near = refined
            .fates
            .iter()
            .filter(|f| f.after <= 0.002 * 1.001)
            .count();
        assert_eq!(near, 40, "{refined}");
        let measured = fidelity
            .with("refined", refined.samples())?
            .distances("refined")?;
        for (fate, measured) in refined.fates.iter().zip(measured) {
            assert!((fate.after - measured).abs() < 1e-6, "{fate:?} {measured}");
        }
        let codes = refined.samples().codes().expect("codes");
        for (v, first) in rows(codes)?
            .iter()
            .zip(rows(samples.codes().expect("codes"))?)
        {
            let (low, high) = typical(&first);
            let length = length(v.iter().copied());
            assert!(
                length > low - 1e-4 && length < high + 1e-4,
                "{low} {length} {high}"
            );
        }
        assert!(refined.moved().iter().all(|m| *m < 1.0));
        assert!(refined.to_string().contains("of 40 samples"), "{refined}");
        Ok(())
    }

    /// What cannot be reached is reported: no image has a mean of 3.
    #[test]
    fn samples_that_do_not_get_there_are_counted() -> Result<()> {
        let layer = layer("grey")?;
        let codes = Rng::new(3).normal((4, 12), &Device::Cpu)?;
        let samples = Samples::of_codes(&codes, &Tenths, 2)?;
        let z = Tensor::full(3f32, (2, 1), &Device::Cpu)?;
        let white = Tensor::ones((2, 3, 2, 2), DType::F32, &Device::Cpu)?;
        let fidelity = Fidelity::of(&layer, &z, &white, &samples)?;
        let refined = samples.refine(&Identity, &Tenths, &fidelity, &RefineConfig::default())?;
        assert_eq!(refined.reached(0).value(), 0.0);
        for (before, after) in refined.before().iter().zip(refined.after()) {
            assert!(after < *before, "{before} {after}");
        }
        let text = refined.to_string();
        assert!(text.contains("0 of 4 samples"), "{text}");
        Ok(())
    }

    #[test]
    fn what_cannot_be_refined_is_refused() -> Result<()> {
        let layer = layer("grey")?;
        let (samples, fidelity) = drawn(&layer, 0.01)?;
        let of_images = Samples::of(&samples.images(), 2)?;
        let refine = |samples: &Samples, config: &RefineConfig| {
            let result = samples.refine(&Identity, &Tenths, &fidelity, config);
            result.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let text = refine(&of_images, &RefineConfig::default());
        assert!(text.contains("Samples::draw"), "{text}");
        let none = RefineConfig {
            steps: 0,
            ..RefineConfig::default()
        };
        assert!(refine(&samples, &none).contains("at least one step"));
        let more = Rng::new(0).normal((42, 12), &Device::Cpu)?;
        let more = Samples::of_codes(&more, &Tenths, 2)?;
        assert!(refine(&more, &RefineConfig::default()).contains("21 originals"));
        // A selection keeps its codes; it must be that of the first originals, in their order.
        assert!(refine(&samples.select(&[0, 1])?, &RefineConfig::default()).is_empty());
        let other = refine(&samples.select(&[7, 3])?, &RefineConfig::default());
        assert!(other.contains("first originals"), "{other}");
        Ok(())
    }
}
