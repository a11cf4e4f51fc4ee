//! [`Certificate`]: statistical tests of a trained t on held-out images. Is v = t(z̄ | z) standard
//! normal and independent of z?
//!
//! ```
//! use invariances::prelude::*;
//! use invariances::autoencoder::ConvVaeConfig;
//! use invariances::backbone::squeezenet_small;
//! use invariances::interpret::{Certificate, CertificateConfig};
//! let network = squeezenet_small(10, &Params::new(0).root())?;
//! let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
//! let digits = Digits::strokes(32, 0)?;
//! let held_out = Codes::of(&vae, &network.at("pool")?, &digits, Split::Validation, 80)?;
//! let config = CinnConfig { flows: 2, hidden: 16, ..CinnConfig::new(held_out.code(), held_out.condition()) };
//! let t = Cinn::new(&config, &Params::new(1).root())?; // not trained
//! let quick = CertificateConfig { steps: 5, nulls: 2, control_steps: 2, ..Default::default() };
//! let certificate = Certificate::with(&t, &held_out, &quick)?;
//! println!("{certificate}"); // one line of text
//! assert_eq!(certificate.controls().len(), 4);
//! # Ok::<(), invariances::Error>(())
//! ```

mod controls;
mod local;
mod projection;
mod report;
mod tests;
mod two_sample;

pub use tests::{RoundTrip, Tests};

use self::controls::{Scaled, small_control};
use self::tests::HeldOut;
use super::Codes;
use crate::flow::{Condition, Flow};
use crate::ops::Rng;
use crate::{Error, Result};
use candle_core::Tensor;

/// The level of all tests: a t passes if no test rejects at this level after Holm's correction.
pub const LEVEL: f64 = 0.05;

/// The largest error of a round trip that counts as exact, in standard deviations of a coordinate.
pub const ROUND_TRIP: f64 = 0.01;

/// The smallest number of held-out images.
const LEAST_IMAGES: usize = 40;

/// Sizes of the tests of a [`Certificate`].
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateConfig {
    /// The largest number of held-out images that are used. The classifier is trained on one half
    /// of them and tested on the other half.
    pub images: usize,
    /// The number of training steps of the classifier.
    pub steps: u64,
    /// The number of classifiers that are trained on noise, for the local test. The smallest
    /// p-value of an image is 1 / (`nulls` + 1).
    pub nulls: usize,
    /// The number of training steps of the two small control networks. 0: no control networks.
    pub control_steps: u64,
    /// The number of permutations of each permutation test.
    pub permutations: usize,
    /// The largest number of images in the coverage test, at least 1. It needs the log-densities of
    /// 19 samples of each. Where these are slow ([`Flow::density_is_slow`]) the regions are those
    /// of small |v| instead, and all tested images are used.
    pub ranked: usize,
    /// The seed of everything that is random.
    pub seed: u64,
}

impl Default for CertificateConfig {
    /// Settings that take less than a minute on two CPU cores for t of the notebooks: 4000 images,
    /// 300 steps, 19 null classifiers, 200 steps for controls, 499 permutations.
    fn default() -> Self {
        Self {
            images: 4000,
            steps: 300,
            nulls: 19,
            control_steps: 200,
            permutations: 499,
            ranked: 500,
            seed: 0,
        }
    }
}

impl CertificateConfig {
    /// Settings for notebooks with several t: 2000 images, no local test, 199 permutations.
    pub fn brief() -> Self {
        Self {
            images: 2000,
            nulls: 0,
            permutations: 199,
            ..Self::default()
        }
    }
}

/// The results of statistical tests of t on held-out images, each beside four controls that must
/// fail.
///
/// Samples D(t⁻¹(v | z)) with v ~ N(0, 1) show what z leaves out only if the v of real images are
/// standard normal and independent of z (arXiv 2008.01777, section 3.1). The tests:
///
/// | test | question | reference |
/// | --- | --- | --- |
/// | classifier | can a classifier tell (v, z) from (ε, z) with ε ~ N(0, 1)? The main number: the share of pairs (v, ε) with the same z in which it picks v; 0.5 if it cannot | Lopez-Paz, Oquab 2017, [arXiv 1610.06545](https://arxiv.org/abs/1610.06545) |
/// | coverage | do highest-density regions of p(z̄ \| z) contain real codes as often as they should? (of t whose log-density is slow: regions of small \|v\|) | ranks of the log-density: Talts et al. 2018, [arXiv 1804.06788](https://arxiv.org/abs/1804.06788); Hermans et al. 2022, [arXiv 2110.06581](https://arxiv.org/abs/2110.06581) |
/// | HSIC | does v depend on z? | Gretton et al. 2007, A Kernel Statistical Test of Independence |
/// | PIT | is each coordinate of v standard normal? | Kolmogorov–Smirnov test of Φ(vᵢ) |
/// | round trip | does t⁻¹ invert t in this number type? | |
/// | local | for which images is t least to be trusted? | after Linhart et al. 2023, [arXiv 2306.03580](https://arxiv.org/abs/2306.03580) |
///
/// The first four have p-values; t passes if none is below 0.05 after Holm's correction, the round
/// trip is exact to 0.01 standard deviations, and every control was rejected: otherwise the tests
/// have no power. With many images every briefly trained t fails: look at the share of pairs to see
/// by how much.
///
/// The controls: t with z of other images; 0.9·v; a small t that was trained without z; a small t
/// that was trained on as many images as a tenth of the held-out ones. The last two are trained
/// here, briefly, on the half of the images on which the classifier is trained too; for this reason
/// too they are worse than t. Compare further networks with [`Certificate::beside`]. A t that makes
/// no use of z (because z contains nothing about z̄) is not rejected with z of other images.
///
/// HSIC and the coordinates are tested on the half on which the classifier is tested (HSIC on at
/// most 1000 images, coverage by density on at most 500 by default, round trips on at most 512).
/// HSIC and the classifier see up to 64 principal components of z, scaled to variance 1. Coverage
/// in regions of small |v| does not test the log-determinant.
///
/// The held-out images must be independent of each other and of those on which t was trained: of
/// the frames of one person use one. Their order does not matter.
#[derive(Clone, Debug)]
pub struct Certificate {
    layer: String,
    held_out: HeldOut,
    /// Whether the regions of t's coverage are those of small |v|, not of high density.
    regions_of_v: bool,
    tests: Tests,
    controls: Vec<(String, Tests)>,
    round_trip: RoundTrip,
    local: local::Local,
    config: CertificateConfig,
}

impl Certificate {
    /// Tests t on held-out codes with the default settings ([`CertificateConfig`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than 40 images and for codes or z that do not vary;
    /// [`Error::Shape`] if t does not fit the codes.
    pub fn of(t: &dyn Flow, held_out: &Codes) -> Result<Self> {
        Self::with(t, held_out, &CertificateConfig::default())
    }

    /// Tests t on held-out codes.
    ///
    /// # Errors
    /// As [`Certificate::of`].
    pub fn with(t: &dyn Flow, held_out: &Codes, config: &CertificateConfig) -> Result<Self> {
        let code = held_out.sample(&mut Rng::named(config.seed, "certificate codes"))?;
        Self::tested(t, &code, &held_out.z(), held_out.condition(), config)
    }

    /// Tests t on codes (n, code) and representations: vectors (n, m) or maps (n, channels, size,
    /// size).
    ///
    /// # Errors
    /// As [`Certificate::of`].
    pub fn with_codes(
        t: &dyn Flow,
        codes: &Tensor,
        z: &Tensor,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let condition = Condition::of(z.dims().get(1..).unwrap_or_default());
        Self::tested(t, codes, z, condition, config)
    }

    fn tested(
        t: &dyn Flow,
        codes: &Tensor,
        z: &Tensor,
        of_z: Condition,
        config: &CertificateConfig,
    ) -> Result<Self> {
        let data = HeldOut::new(codes, z, t.placement().as_ref(), config)?;
        let (embedded, condition) = t.embedded(&data.z)?;
        let t = embedded.as_deref().unwrap_or(t);
        let mut certificate = Self::new(t, &condition, data, config)?;
        if config.control_steps > 0 {
            for (name, all) in [
                ("small t without z", true),
                ("small t, a tenth of the images", false),
            ] {
                let control = small_control(&certificate.held_out, of_z, all, config)?;
                certificate = certificate.beside(name, &control)?;
            }
        }
        Ok(certificate)
    }

    fn new(
        t: &dyn Flow,
        condition: &Tensor,
        held_out: HeldOut,
        config: &CertificateConfig,
    ) -> Result<Self> {
        check_permutations(config.permutations)?;
        let round_trip = RoundTrip::of(t, condition, &held_out, config)?;
        let (tests, scorer) = Tests::of("t", t, condition, &held_out, config)?;
        let local = local::Local::of(&scorer, &held_out, config)?;
        let order = Rng::named(config.seed, "z of other images").permutation(held_out.len());
        let order = Tensor::new(order, condition.device())?;
        let others = condition.index_select(&order, 0)?;
        let moved = held_out.with_z_of(&order)?;
        let controls = vec![
            (
                "z of other images".to_string(),
                Tests::of("z of other images", t, &others, &moved, config)?.0,
            ),
            (
                "0.9 · v".to_string(),
                Tests::of("0.9 · v", &Scaled(t, 0.9), condition, &held_out, config)?.0,
            ),
        ];
        Ok(Self {
            layer: String::new(),
            held_out,
            regions_of_v: t.density_is_slow(),
            tests,
            controls,
            round_trip,
            local,
            config: config.clone(),
        })
    }

    /// Adds the tests of another t on the same images, such as one that was trained without z or
    /// on fewer images.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not fit the codes and z.
    pub fn beside(mut self, name: &str, t: &dyn Flow) -> Result<Self> {
        let (embedded, condition) = t.embedded(&self.held_out.z)?;
        let t = embedded.as_deref().unwrap_or(t);
        let (tests, _) = Tests::of(name, t, &condition, &self.held_out, &self.config)?;
        self.controls.push((name.into(), tests));
        Ok(self)
    }

    /// Sets the name of the layer, which is shown in the table and the text.
    pub fn named(mut self, layer: &str) -> Self {
        self.layer = layer.into();
        self
    }

    /// The results for t.
    pub fn tests(&self) -> &Tests {
        &self.tests
    }

    /// The names and results of the controls.
    pub fn controls(&self) -> &[(String, Tests)] {
        &self.controls
    }

    /// The round trips of t.
    pub fn round_trip(&self) -> RoundTrip {
        self.round_trip
    }

    /// Whether no test rejects t ([`Tests::passes`]), its round trips are exact, and every control
    /// was rejected ([`Certificate::has_power`]).
    pub fn passes(&self) -> bool {
        self.tests.passes() && self.round_trip.is_exact() && self.has_power()
    }

    /// Whether every control was rejected. If not, the tests would not see such a deviation in t
    /// either: use more images.
    pub fn has_power(&self) -> bool {
        self.controls.iter().all(|(_, tests)| !tests.passes())
    }

    /// The number of held-out images.
    pub fn images(&self) -> usize {
        self.held_out.len()
    }

    /// The positions, among the held-out images, of the images for which t is least to be trusted:
    /// those for which the classifier's score varies most over ε ~ N(0, 1), relative to classifiers
    /// that were trained on noise. Only images of the half on which the classifier is tested are
    /// considered; none if no null classifiers were trained.
    pub fn least_trusted(&self, count: usize) -> Vec<u32> {
        match self.config.nulls {
            0 => Vec::new(),
            _ => self.held_out.positions(&self.local.least_trusted(count)),
        }
    }

    /// The share of the tested images for which the local test rejects t at 5 %. For an exact t it
    /// is 0.05 on average, but images are not independent here: the same classifier scores all of
    /// them, so that a single share can be much larger or smaller. `None` if fewer than 19 null
    /// classifiers were trained: then no p-value can be that small.
    pub fn locally_rejected(&self) -> Option<f64> {
        (self.config.nulls >= 19).then(|| self.local.rejected())
    }
}

/// The error for too few images.
fn check_images(images: usize) -> Result<()> {
    match images {
        n if n >= LEAST_IMAGES => Ok(()),
        n => Err(Error::invalid(format!(
            "expected at least {LEAST_IMAGES} held-out images for a certificate, found {n}: use \
             2000 or more, so that the tests can find deviations"
        ))),
    }
}

/// With too few permutations no p-value can be small enough after Holm's correction over four tests.
fn check_permutations(permutations: usize) -> Result<()> {
    match 4.0 / (1.0 + permutations as f64) <= LEVEL {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "expected at least 79 permutations, found {permutations}: with fewer no test can reject \
             at 5 % after Holm's correction"
        ))),
    }
}
