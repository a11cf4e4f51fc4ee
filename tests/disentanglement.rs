//! Disentanglement: DCI and the mutual information gap against values computed by hand, and against
//! a factor network whose factors are known.

use invariances::Result;
use invariances::flow::{FactorConfig, FactorInn};
use invariances::interpret::{Disentanglement, Semantics};
use invariances::metric::{dci, mig};
use invariances::prelude::*;
use std::collections::BTreeMap;

type Classes = BTreeMap<String, Vec<u32>>;

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "expected {expected} ± {tolerance}, found {found}"
    );
}

fn says<T>(result: Result<T>, part: &str) {
    match result {
        Ok(_) => panic!("expected an error that says {part:?}"),
        Err(e) => assert!(e.to_string().contains(part), "{e}"),
    }
}

#[test]
fn dci_is_1_for_a_permutation_and_0_for_equal_importances() -> Result<()> {
    // Which block a factor is in, and how important it is, do not matter.
    let permuted = [
        vec![0.0, 2.0, 0.0],
        vec![0.5, 0.0, 0.0],
        vec![0.0, 0.0, 7.0],
    ];
    let found = dci(&permuted)?;
    near(found.disentanglement, 1.0, 1e-12);
    near(found.completeness, 1.0, 1e-12);
    let equal = vec![vec![0.3; 4]; 3];
    let found = dci(&equal)?;
    near(found.disentanglement, 0.0, 1e-12);
    near(found.completeness, 0.0, 1e-12);
    let none = vec![vec![0.0; 4]; 3];
    let found = dci(&none)?;
    assert_eq!((found.disentanglement, found.completeness), (0.0, 0.0));
    Ok(())
}

/// The functions `disentanglement` and `completeness` of disentanglement_lib (`evaluation/metrics/
/// dci.py`, codes × factors, which adds 1e-11 to each importance) give 0.5943609377 and
/// 0.7153213030 for this matrix.
#[test]
fn dci_of_a_mixed_case_is_what_it_is_by_hand() -> Result<()> {
    let found = dci(&[vec![3.0, 1.0], vec![0.0, 4.0], vec![0.0, 0.0]])?;
    // Block 0 has shares of 3/4 and 1/4: their entropy in base 2 is 2 − (3/4)·log₂ 3.
    let block = 1.0 - (2.0 - 0.75 * 3f64.log2());
    // Factor 1 has shares of 1/5 and 4/5: their entropy in base 3.
    let factor = 1.0 - (0.2 * 5f64.ln() + 0.8 * 1.25f64.ln()) / 3f64.ln();
    for (found, expected) in found.of_blocks.iter().zip([block, 1.0, 0.0]) {
        near(*found, expected, 1e-12);
    }
    for (found, expected) in found.of_factors.iter().zip([1.0, factor]) {
        near(*found, expected, 1e-12);
    }
    // Both blocks have 4 of 8; the factors have 3 and 5 of 8.
    near(found.disentanglement, 0.5 * block + 0.5, 1e-12);
    near(found.completeness, 3.0 / 8.0 + 5.0 / 8.0 * factor, 1e-12);
    near(found.disentanglement, 0.594_360_937_7, 1e-9);
    near(found.completeness, 0.715_321_303_0, 1e-9);
    Ok(())
}

#[test]
fn the_gap_is_between_the_two_most_informative_blocks() -> Result<()> {
    let information = [
        vec![0.2, 0.1, 0.3],
        vec![0.5, 0.1, 0.0],
        vec![0.0, 0.4, 0.3],
    ];
    let found = mig(&information, &[2f64.ln(), 1.0, 0.4])?;
    let expected = [0.3 / 2f64.ln(), 0.3, 0.0];
    for (found, expected) in found.of_factors.iter().zip(expected) {
        near(*found, expected, 1e-12);
    }
    near(found.gap, expected.iter().sum::<f64>() / 3.0, 1e-12);
    let alone = mig(&[vec![0.7, 0.0], vec![0.0, 1.1]], &[0.7, 1.1])?;
    near(alone.gap, 1.0, 1e-12);
    Ok(())
}

#[test]
fn matrices_that_do_not_fit_are_errors() {
    says(dci(&[]), "rows of lengths []");
    says(dci(&[vec![1.0, 2.0], vec![1.0]]), "rows of lengths [2, 1]");
    says(dci(&[vec![1.0], vec![1.0]]), "at least two factors");
    says(dci(&[vec![1.0, 2.0]]), "at least two blocks");
    says(dci(&[vec![1.0, -2.0], vec![1.0, 1.0]]), "found -2");
    says(dci(&[vec![1.0, f64::NAN], vec![1.0, 1.0]]), "found NaN");
    says(mig(&[vec![0.1], vec![0.2]], &[0.0]), "found 0");
    says(mig(&[vec![0.1], vec![0.2]], &[1.0, 1.0]), "2 entropies");
    says(mig(&[vec![0.1]], &[1.0]), "found 1 blocks");
}

const FACTORS: [&str; 3] = ["first", "second", "third"];

/// An e that is the identity: its nets are zero, and its permutation undoes the exchange of the
/// halves in the coupling.
fn identity(sizes: Vec<usize>) -> Result<FactorInn> {
    let params = Params::new(0);
    let config = FactorConfig {
        hidden: 4,
        depth: 1,
        flows: 1,
        ..FactorConfig::new(sizes)
    };
    let e = FactorInn::new(&config, &params.root())?;
    for (name, var) in params.trained() {
        if name.contains(".main.") {
            var.set(&var.zeros_like()?)?;
        }
    }
    let code = config.dim();
    let half = code / 2;
    for (name, shift) in [("forward", half), ("backward", code - half)] {
        let order: Vec<f32> = (0..code).map(|i| ((i + shift) % code) as f32).collect();
        let var = params.var(&format!("realnvp.flow.0.flow.2.{name}_shuffle_idx"))?;
        var.set(&Tensor::new(order, &Device::Cpu)?)?;
    }
    Ok(e)
}

/// Codes of eight dimensions with noise of deviation 0.1. Dimension 2k is shifted by −1 or 1, which
/// is the class of factor k; the last two and all odd dimensions are noise only.
fn coded(n: usize, seed: u64) -> Result<(Tensor, Classes)> {
    let mut rng = Rng::new(seed);
    let mut codes: Vec<f32> = (0..8 * n).map(|_| 0.1 * rng.normal_f32()).collect();
    let mut classes = Classes::new();
    for (k, name) in FACTORS.iter().enumerate() {
        let of_factor: Vec<u32> = (0..n).map(|_| rng.below(2) as u32).collect();
        for (i, class) in of_factor.iter().enumerate() {
            codes[8 * i + 2 * k] += 2.0 * *class as f32 - 1.0;
        }
        classes.insert(name.to_string(), of_factor);
    }
    Ok((Tensor::from_vec(codes, (n, 8), &Device::Cpu)?, classes))
}

/// Rotates codes by the Hadamard matrix: each dimension becomes ± all dimensions / √8.
fn rotated(codes: &Tensor) -> Result<Tensor> {
    let sign = |i: usize| {
        if ((i / 8) & (i % 8)).count_ones().is_multiple_of(2) {
            1f32
        } else {
            -1.0
        }
    };
    let matrix: Vec<f32> = (0..64).map(|i| sign(i) / 8f32.sqrt()).collect();
    Ok(codes.matmul(&Tensor::from_vec(matrix, (8, 8), &Device::Cpu)?)?)
}

fn semantics() -> Result<Semantics> {
    Ok(Semantics {
        e: identity(vec![2, 2, 2, 2])?,
        concepts: FACTORS.map(String::from).to_vec(),
    })
}

/// Each factor is in its own block, and the residual is noise: the gap, disentanglement and
/// completeness are 1 but for the probes' errors. 0.9 allows each probe a tenth of the entropy.
#[test]
fn factors_in_blocks_of_their_own_are_disentangled() -> Result<()> {
    let semantics = semantics()?;
    let (codes, classes) = coded(1000, 1)?;
    let same = (semantics.e.forward(&codes)?.0 - &codes)?
        .abs()?
        .max_all()?;
    assert!(same.to_scalar::<f32>()? < 1e-6);
    let (new_codes, truth) = coded(1000, 2)?;
    let (train, new) = ((&codes, &classes), (&new_codes, &truth));
    let probes = Disentanglement::probes(0);
    let found = Disentanglement::of(&semantics, train, new, &probes)?;
    assert_eq!(found.blocks(), ["first", "second", "third", "residual"]);
    assert_eq!(found.factors(), FACTORS);
    for (block, row) in found.information().iter().enumerate() {
        for (factor, (nats, entropy)) in row.iter().zip(found.entropies()).enumerate() {
            near(*entropy, 2f64.ln(), 0.01);
            let expected = if block == factor { *entropy } else { 0.0 };
            near(*nats, expected, 0.05);
        }
    }
    let values = [
        found.gap(3)?,
        found.disentanglement(3)?,
        found.completeness(3)?,
    ];
    for value in &values {
        let e = value.estimate();
        assert!(e.mean > 0.9 && e.low <= e.high && e.high <= 1.0, "{e}");
        assert_eq!(value.n(), 1000);
    }
    let of_all = [
        found.mig()?.gap,
        found.dci()?.disentanglement,
        found.dci()?.completeness,
    ];
    for (value, expected) in values.iter().zip(of_all) {
        near(value.value(), expected, 1e-12);
    }
    assert_eq!(found.gap(3)?, values[0]);
    assert!(found.informativeness("first", 0)?.mean > 0.98);
    assert!((0.5..0.6).contains(&found.chance("first")?));
    assert!(found.table(0)?.csv().contains("\nsecond,0.69,second "));
    found.heat_map().figure()?;
    says(found.informativeness("secnd", 0), "did you mean \"second\"");
    Ok(())
}

/// After the rotation, each block sees the sum of all three classes, up to signs and noise: all
/// blocks have the same information about all factors, so the gap, disentanglement and
/// completeness are 0 but for the errors of probes and samples. All blocks together determine the
/// factors as before.
#[test]
fn rotated_factors_are_not_disentangled() -> Result<()> {
    let semantics = semantics()?;
    let (codes, classes) = coded(1000, 1)?;
    let (new_codes, truth) = coded(1000, 2)?;
    let (codes, new_codes) = (rotated(&codes)?, rotated(&new_codes)?);
    let (train, new) = ((&codes, &classes), (&new_codes, &truth));
    let found = Disentanglement::of(&semantics, train, new, &Disentanglement::probes(0))?;
    // The sum of three signs is ±3 in a quarter of the cases and determines all of them. Else it is
    // ±1, and two of three have its sign.
    let third = 3f64.ln() - 2.0 / 3.0 * 2f64.ln();
    let expected = 2f64.ln() - 0.75 * third;
    for nats in found.information().iter().flatten() {
        near(*nats, expected, 0.06);
    }
    assert!(found.mig()?.gap < 0.15, "{:?}", found.mig()?);
    let found_dci = found.dci()?;
    assert!(found_dci.disentanglement < 0.1, "{found_dci:?}");
    assert!(found_dci.completeness < 0.1, "{found_dci:?}");
    assert!(found.informativeness("third", 0)?.mean > 0.98);
    Ok(())
}

#[test]
fn classes_that_do_not_fit_are_errors() -> Result<()> {
    let semantics = semantics()?;
    let (codes, classes) = coded(20, 1)?;
    let probes = ProbeConfig {
        steps: 2,
        ..Disentanglement::probes(0)
    };
    let of = |train: &Classes, new: &Classes| {
        Disentanglement::of(&semantics, (&codes, train), (&codes, new), &probes)
    };
    let with = |name: &str, of_factor: Vec<u32>| {
        let mut changed = classes.clone();
        changed.insert(name.to_string(), of_factor);
        changed
    };
    says(of(&Classes::new(), &Classes::new()), "found [] and []");
    says(
        of(&classes, &with("fourth", vec![0; 20])),
        "first, fourth, second",
    );
    says(of(&classes, &with("first", vec![0; 19])), "found 19");
    says(of(&classes, &with("first", vec![1; 20])), "one: use more");
    // A class that occurs on held-out images only is improbable for the probe, and no error.
    let unseen = with("first", (0..20).map(|i| i % 5).collect());
    let found = of(&classes, &unseen)?;
    near(found.entropies()[0], 5f64.ln(), 1e-12);
    let few = Semantics {
        concepts: vec!["first".into()],
        ..semantics.clone()
    };
    let one = Disentanglement::of(&few, (&codes, &classes), (&codes, &classes), &probes);
    says(one, "found 1 concepts and 4 factors");
    Ok(())
}

#[test]
fn a_probe_says_how_improbable_a_class_was() -> Result<()> {
    let (codes, classes) = coded(400, 5)?;
    let labels = Tensor::new(classes["first"].as_slice(), &Device::Cpu)?;
    let config = Disentanglement::probes(0);
    let probe = Probe::train(&codes, &labels, &config)?;
    let (nats, right) = (
        probe.cross_entropy(&codes, &labels)?,
        probe.right(&codes, &labels)?,
    );
    // Of two classes, the predicted one has a probability of at least 1/2.
    for (nats, right) in nats.iter().zip(&right) {
        assert_eq!(*nats <= 2f64.ln(), *right == 1.0);
    }
    let mean = nats.iter().sum::<f64>() / 400.0;
    assert!(mean > 0.0 && mean < 0.07, "{mean}");
    // The other class is as improbable as this one is not.
    let other = probe.cross_entropy(&codes, &labels.eq(0u32)?.to_dtype(DType::U32)?)?;
    for (this, other) in nats.iter().zip(&other) {
        near((-this).exp() + (-other).exp(), 1.0, 1e-9);
    }
    let third = Tensor::full(2u32, 400, &Device::Cpu)?;
    says(probe.cross_entropy(&codes, &third), "from 0 to 1, found 2");
    says(
        probe.cross_entropy(&codes, &labels.narrow(0, 0, 3)?),
        "each of 400 rows",
    );
    says(
        Probe::train_classes(&codes, &labels, 1, &config).map(drop),
        "from 0 to 0, found 1",
    );
    Ok(())
}
