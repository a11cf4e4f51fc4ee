//! How often the tests of a certificate reject: an exact t (false alarms), and four wrong ones. The
//! exact t is that of a conditional Gaussian with 8 dimensions and 12 of z, for which both have
//! equal shares of the variance; each repetition draws another one, with 2000 held-out images.
//!
//! Run it with `cargo bench --bench certificate`, or with `-- 50` for 50 repetitions instead of 200.
//! With `-- time` it measures how long a certificate takes for a t of the notebooks' size.

#[path = "../tests/common/gaussian.rs"]
mod gaussian;

use gaussian::Gaussian;
use invariances::Result;
use invariances::candle_core::Tensor;
use invariances::flow::{Cinn, CinnConfig, Condition};
use invariances::interpret::{Certificate, CertificateConfig, Tests};
use invariances::ops::{Params, Rng};
use rayon::prelude::*;
use std::time::Instant;

const IMAGES: usize = 2000;

/// Whether each test rejects at 5 %, and whether any does after Holm's correction.
fn rejects(tests: &Tests) -> [bool; 5] {
    [
        tests.accuracy_p() <= 0.05,
        tests.coverage_test().p <= 0.05,
        tests.dependence().p <= 0.05,
        tests.coordinates_p() <= 0.05,
        !tests.passes(),
    ]
}

fn repetition(seed: u64) -> Result<Vec<(String, [bool; 5])>> {
    let exact = Gaussian::random(8, 12, seed)?;
    let (code, z) = exact.draw(IMAGES, &mut Rng::named(seed, "held out"))?;
    let (others, z_of_others) = exact.draw(IMAGES, &mut Rng::named(seed, "training"))?;
    let without = Gaussian::fit(&others, None, 12)?;
    let tenth = |x: &Tensor| x.narrow(0, 0, IMAGES / 10);
    let few = Gaussian::fit(&tenth(&others)?, Some(&tenth(&z_of_others)?), 12)?;
    let config = CertificateConfig {
        nulls: 0,
        control_steps: 0,
        permutations: 199,
        seed,
        ..CertificateConfig::default()
    };
    let certificate = Certificate::with_codes(&exact, &code, &z, &config)?
        .beside("without z", &without)?
        .beside("a tenth of the images", &few)?;
    let mut found = vec![("exact".to_string(), rejects(certificate.tests()))];
    for (name, tests) in certificate.controls() {
        found.push((name.clone(), rejects(tests)));
    }
    Ok(found)
}

/// The seconds that a certificate with the default settings takes for a t of notebook 01's size: 12
/// flows of width 128, codes of 48 and z of 128 dimensions, 4000 images. t is not trained, which
/// does not change the time.
fn time() -> Result<()> {
    let exact = Gaussian::random(48, 128, 0)?;
    let (code, z) = exact.draw(4000, &mut Rng::new(0))?;
    let config = CinnConfig {
        flows: 12,
        ..CinnConfig::new(48, Condition::Vector(128))
    };
    let t = Cinn::new(&config, &Params::new(0).root())?;
    t.initialize(&code, &z)?;
    for (name, config) in [
        ("default", CertificateConfig::default()),
        ("brief", CertificateConfig::brief()),
    ] {
        let began = Instant::now();
        let certificate = Certificate::with_codes(&t, &code, &z, &config)?;
        println!(
            "{name}: {:.1} s. {certificate}",
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    if std::env::args().any(|a| a == "time") {
        return time();
    }
    let number = std::env::args().find_map(|a| a.parse::<u64>().ok());
    let repetitions = number.unwrap_or(200);
    let began = Instant::now();
    let all: Vec<_> = (0..repetitions)
        .into_par_iter()
        .map(repetition)
        .collect::<Result<_>>()?;
    println!("{repetitions} repetitions, {IMAGES} held-out images; share that rejects at 5 %:\n");
    println!("| t | classifier | coverage | HSIC | coordinates | any, after Holm's correction |");
    println!("| --- | --: | --: | --: | --: | --: |");
    let names = all.first().map(|row| row.len()).unwrap_or(0);
    for k in 0..names {
        let share = |test: usize| {
            let hits = all.iter().filter(|row| row[k].1[test]).count();
            format!("{:.1} %", 100.0 * hits as f64 / repetitions as f64)
        };
        let cells: Vec<String> = (0..5).map(share).collect();
        println!("| {} | {} |", all[0][k].0, cells.join(" | "));
    }
    println!("\n{:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
