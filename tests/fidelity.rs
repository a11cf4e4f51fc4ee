//! How near samples are to their z, and how much of a factor a layer leaves free, each with its floor and its ceiling: against cases whose answer is known.

use invariances::autoencoder::ConvVaeConfig;
use invariances::backbone::plain_small;
use invariances::data::Attribute;
use invariances::interpret::{Fidelity, FreeShares, Readout, Targets, Unexplained};
use invariances::metric::IndependentClassifier;
use invariances::prelude::*;
use invariances::{Error, Result};

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn says<T>(result: Result<T>, part: &str) {
    match result {
        Ok(_) => panic!("expected an error that says {part:?}"),
        Err(e) => assert!(e.to_string().contains(part), "{e}"),
    }
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "found {found}, expected {expected} ± {tolerance}"
    );
}

/// A layer whose output is the mean colour of an image.
fn colour() -> Result<Greybox> {
    Custom::new("colours")
        .layer("mean", |x: &Tensor| x.mean(3)?.mean(2))
        .at("mean")
}

/// Images of one colour each.
fn images(colours: &[[f32; 3]]) -> Result<Tensor> {
    let n = colours.len();
    let pixels = Tensor::from_vec(colours.concat(), (n, 3, 1, 1), &Device::Cpu)?;
    Ok(pixels.broadcast_as((n, 3, 4, 4))?.contiguous()?)
}

/// 40 originals: red alternates between −0.4 and 0.4, so that each is 0.8 from the next one.
fn originals() -> Vec<[f32; 3]> {
    (0..40)
        .map(|i| [if i % 2 == 0 { -0.4 } else { 0.4 }, 0.0, 0.0])
        .collect()
}

/// Reconstructions of them, at distances 0.01, 0.02, … 0.40 in blue.
fn reconstructions() -> Vec<[f32; 3]> {
    let each = originals().into_iter().enumerate();
    each.map(|(i, [r, g, b])| [r, g, b + 0.01 * (i + 1) as f32])
        .collect()
}

/// For each original, an image at each of these distances in green.
fn at_distances(distances: &[f32]) -> Result<Samples> {
    let each = originals().into_iter();
    let all: Vec<[f32; 3]> = each
        .flat_map(|[r, g, b]| distances.iter().map(move |d| [r, g + d, b]))
        .collect();
    Samples::of(&images(&all)?, distances.len())
}

fn measured() -> Result<Fidelity> {
    let greybox = colour()?;
    let z = greybox.encode(&images(&originals())?)?;
    let samples = at_distances(&[0.2, 0.6])?;
    Fidelity::of(&greybox, &z, &images(&reconstructions())?, &samples)
}

#[test]
fn distances_floor_and_ceiling_are_those_put_in() -> Result<()> {
    let fidelity = measured()?;
    assert_eq!(
        (fidelity.layer().as_str(), fidelity.methods()),
        ("mean", vec!["samples".to_string()])
    );
    let distances = fidelity.distances("samples")?;
    assert_eq!(distances.len(), 80);
    for pair in distances.chunks(2) {
        near(pair[0], 0.2, 1e-6);
        near(pair[1], 0.6, 1e-6);
    }
    for (i, (floor, ceiling)) in fidelity.floor().iter().zip(fidelity.ceiling()).enumerate() {
        near(*floor, 0.01 * (i + 1) as f64, 1e-6);
        near(*ceiling, 0.8, 1e-6);
    }
    // The mean of the samples is 0.4, that of the floor 0.205; its 95 % quantile is 0.38, the 38th
    // of 40, so that one of two samples is within it.
    near(fidelity.multiple("samples", 0)?.value(), 0.4 / 0.205, 1e-5);
    let position = (0.4 - 0.205) / (0.8 - 0.205);
    near(fidelity.position("samples", 0)?.value(), position, 1e-5);
    assert_eq!(fidelity.overlap("samples", 0)?.value(), 0.5);
    assert!(fidelity.is_indistinguishable("samples")?);
    assert_eq!(
        fidelity.sentence(),
        "mean: samples lie 2.0 times as far from z as reconstructions (0.33 of the way to an \
         unrelated image); the layer cannot tell most of them apart from reconstructions."
    );
    Ok(())
}

#[test]
fn methods_are_compared_with_the_same_floor() -> Result<()> {
    let again = Samples::of(&images(&reconstructions())?, 1)?;
    let exact = Samples::of(&images(&originals())?, 1)?;
    let few = Samples::of(&images(&reconstructions()[..10])?, 1)?;
    let fidelity = measured()?
        .with("reconstructions", &again)?
        .with("originals", &exact)?
        .with("far", &at_distances(&[0.5])?)?
        .with("few", &few)?;
    // Reconstructions as a method: paired with the floor, every resample has the multiple 1.
    let multiple = fidelity.multiple("reconstructions", 3)?;
    assert!(!multiple.replicates().is_empty());
    for value in multiple.replicates() {
        near(*value, 1.0, 1e-12);
    }
    near(fidelity.position("reconstructions", 3)?.value(), 0.0, 1e-12);
    assert_eq!(fidelity.overlap("reconstructions", 3)?.value(), 0.95);
    assert!(fidelity.is_indistinguishable("reconstructions")?);
    // The originals themselves are nearer than the floor, 0.5 is farther than all of it.
    near(fidelity.multiple("originals", 0)?.value(), 0.0, 1e-6);
    assert!(fidelity.position("originals", 0)?.value() < 0.0);
    assert_eq!(fidelity.overlap("originals", 0)?.value(), 1.0);
    assert_eq!(fidelity.overlap("far", 0)?.value(), 0.0);
    assert!(!fidelity.is_indistinguishable("far")?);
    let sentence = fidelity.sentence();
    assert!(
        sentence.contains(
            "mean: images of far lie 2.4 times as far from z as reconstructions (0.50 of the way \
             to an unrelated image); the layer tells most of them apart from reconstructions."
        ),
        "{sentence}"
    );
    // Images of the first ten originals: their floor is 0.01 … 0.10.
    assert_eq!(fidelity.distances("few")?.len(), 10);
    near(fidelity.multiple("few", 0)?.value(), 1.0, 1e-12);
    assert_eq!(fidelity.overlap("few", 0)?.n(), 10);
    // A row for each method, and a chart with a box for each.
    let table = Fidelity::table(&[fidelity.clone(), measured()?], 0).csv();
    assert_eq!(table.lines().count(), 1 + 5 + 1, "{table}");
    assert!(table.contains("mean,far,0.500,0.205,0.800,"), "{table}");
    Fidelity::boxes(&[fidelity.clone(), measured()?])?.figure()?;
    says(Fidelity::boxes(&[]), "one layer at least");
    says(fidelity.multiple("fra", 0), "samples, reconstructions");
    says(fidelity.clone().with("far", &again), "\"far\" twice");
    let more = images(&[originals(), originals()].concat())?;
    says(
        fidelity.clone().with("more", &Samples::of(&more, 1)?),
        "found 80 images",
    );
    let nan = images(&[[f32::NAN, 0.0, 0.0], [0.0; 3]])?;
    says(fidelity.with("nan", &Samples::of(&nan, 1)?), "row 0");
    Ok(())
}

#[test]
fn exact_reconstructions_have_no_multiple() -> Result<()> {
    let greybox = colour()?;
    let x = images(&originals())?;
    let z = greybox.encode(&x)?;
    let fidelity = Fidelity::of(&greybox, &z, &x, &at_distances(&[0.2, 0.6])?)?;
    says(fidelity.multiple("samples", 0), "exactly the z");
    near(fidelity.position("samples", 0)?.value(), 0.5, 1e-5);
    assert!(!fidelity.is_indistinguishable("samples")?);
    assert!(
        fidelity
            .sentence()
            .contains("reconstructions at distance 0")
    );
    let table = Fidelity::table(std::slice::from_ref(&fidelity), 0).csv();
    assert!(table.contains(",–,"), "{table}");
    // Without a difference between originals there is no ceiling.
    let same = images(&[[0.1, 0.2, 0.3]; 4])?;
    let samples = Samples::of(&images(&[[0.1, 0.2, 0.4]; 4])?, 1)?;
    let constant = Fidelity::of(&greybox, &greybox.encode(&same)?, &same, &samples)?;
    says(constant.position("samples", 0), "unrelated images");
    says(Fidelity::boxes(&[constant]), "the same z");
    // z and reconstructions have to fit the originals and the layer.
    let samples = at_distances(&[0.2])?;
    let wrong = z.narrow(1, 0, 2)?;
    says(Fidelity::of(&greybox, &wrong, &x, &samples), "(batch, 3)");
    says(
        Fidelity::of(&greybox, &z, &x.narrow(0, 0, 39)?, &samples),
        "[39, 3, 4, 4]",
    );
    Ok(())
}

/// The network is evaluated batch by batch, with several images per original: the distances are
/// those of all features at once.
#[test]
fn distances_do_not_depend_on_the_batches() -> Result<()> {
    let network = plain_small(10, &Params::new(0).root())?.frozen()?;
    let greybox = network.at("pool")?;
    let digits = Digits::strokes(32, 0)?;
    let x = digits.batch(Split::Test, 0, 35)?.images;
    let other = digits.batch(Split::Validation, 0, 105)?.images;
    let z = greybox.features(&x)?;
    let fidelity = Fidelity::of(&greybox, &z, &x, &Samples::of(&other, 3)?)?;
    let (found, own) = (greybox.features(&other)?, z.to_vec2::<f32>()?);
    let found = found.to_vec2::<f32>()?;
    for (i, distance) in fidelity.distances("samples")?.iter().enumerate() {
        let pairs = found[i].iter().zip(&own[i / 3]);
        let by_hand = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        near(*distance, by_hand.sqrt(), 1e-4 * (1.0 + by_hand.sqrt()));
    }
    Ok(())
}

#[test]
fn targets_hold_what_was_measured() -> Result<()> {
    let digits = Digits::strokes(32, 0)?;
    let network = plain_small(10, &Params::new(0).root())?.frozen()?;
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let attribute = Attribute::class("digit", &names);
    let independent = IndependentClassifier::new(&network, &[attribute])?;
    let x = digits.batch(Split::Test, 0, 12)?.images;
    let targets = Targets::of(&independent, &x)?;
    let rows = targets.get("digit")?.to_vec2::<f64>()?;
    for (row, answer) in rows.iter().zip(&independent.names(&x)?["digit"]) {
        let expected = (0..10).map(|n| f64::from(n == *answer));
        assert_eq!(*row, expected.collect::<Vec<f64>>());
    }
    let colours = Targets::colours(&x)?.renamed("foreground", "ink")?;
    assert_eq!(colours.names(), ["ink", "background"]);
    let all = targets.clone().and(colours.clone())?;
    assert_eq!(all.names(), ["digit", "ink", "background"]);
    assert_eq!(
        all.select(&["background", "digit"])?.names(),
        ["background", "digit"]
    );
    assert_eq!(all.get("ink")?.dims(), [12, 3]);
    says(all.get("ikn"), "digit, ink, background");
    says(all.clone().and(targets), "\"digit\" twice");
    says(
        all.clone().renamed("ink", "background"),
        "another factor of this name",
    );
    let eleven = Tensor::zeros(11, DType::F32, &Device::Cpu)?;
    says(all.with("more", &eleven), "(12, components)");

    // Of codes: decoded batch by batch, the last one smaller.
    let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(1).root())?;
    let codes = Codes::of(&vae, &network.at("pool")?, &digits, Split::Test, 140)?;
    let found = Targets::of_codes(&codes, &vae, 130, &Targets::colours)?;
    let modes = codes.modes();
    assert_eq!(modes.dims(), [140, 48]);
    let at_once = Targets::colours(&vae.images_of(&modes.narrow(0, 0, 130)?)?)?;
    for name in ["foreground", "background"] {
        let (a, b) = (values(&found.get(name)?)?, values(&at_once.get(name)?)?);
        assert_eq!(a.len(), 390);
        a.iter().zip(&b).for_each(|(a, b)| near(*a, *b, 1e-6));
    }
    let all = Targets::of_codes(&codes, &vae, 141, &Targets::colours);
    says(all, "140");
    let first = |images: &Tensor| Targets::colours(&images.narrow(0, 0, 1)?);
    says(
        Targets::of_codes(&codes, &vae, 4, &first),
        "each of 4 images",
    );
    Ok(())
}

const ORIGINALS: usize = 4000;
const PER_IMAGE: usize = 4;
const TRAINED: usize = 4000;
const HIDDEN: usize = 16;

/// z is (n, 2): a standard normal number and ±1. Factors of images that have this z: `linear`, the
/// number and as much noise of its own; `sign`, one-hot, fixed by z; and `noise`, which z knows
/// nothing of.
fn factors(z: &Tensor, seed: u64) -> Result<Targets> {
    let n = z.dim(0)?;
    let mut rng = Rng::new(seed);
    let number = z.narrow(1, 0, 1)?;
    let linear = (number + rng.normal((n, 1), &Device::Cpu)?)?;
    let sign = z.narrow(1, 1, 1)?;
    let sign = Tensor::cat(&[sign.affine(0.5, 0.5)?, sign.affine(-0.5, 0.5)?], 1)?;
    Targets::default()
        .with("linear", &linear)?
        .with("sign", &sign)?
        .with("noise", &rng.normal((n, 1), &Device::Cpu)?)
}

fn representations(n: usize, seed: u64) -> Result<Tensor> {
    let mut rng = Rng::new(seed);
    let number = rng.normal((n, 1), &Device::Cpu)?;
    let sign: Vec<f32> = (0..n).map(|_| [-1.0, 1.0][rng.below(2)]).collect();
    let sign = Tensor::from_vec(sign, (n, 1), &Device::Cpu)?;
    Ok(Tensor::cat(&[number, sign], 1)?)
}

/// y = z + ε: half of the variance is free, ½ = b²/(a² + b²) with a = b = 1. A perfect t draws new
/// ε for the same z.
#[test]
fn shares_floors_and_ceilings_where_the_answer_is_known() -> Result<()> {
    let z = representations(ORIGINALS, 1)?;
    let originals = factors(&z, 2)?;
    let repeated: Vec<u32> = (0..ORIGINALS * PER_IMAGE)
        .map(|i| (i / PER_IMAGE) as u32)
        .collect();
    let repeated = z.index_select(&Tensor::new(repeated, &Device::Cpu)?, 0)?;
    let samples = factors(&repeated, 3)?;
    let shares = FreeShares::of(&samples, &originals, PER_IMAGE)?;
    assert!(shares.floor("linear", 0)?.is_none() && shares.gap("linear", 0)?.is_none());

    let seen = representations(TRAINED, 4)?;
    let config = ProbeConfig {
        steps: 600,
        hidden: HIDDEN,
        ..ProbeConfig::default()
    };
    let floor = Unexplained::fit(&seen, &factors(&seen, 5)?, &z, &originals, &config)?;
    let shares = shares.with_floor(&floor)?;

    // Four standard deviations of each estimate, relative to its value. The variance over n
    // Gaussian values has √(2/(n − 1)), and so has a mean of squared errors.
    let n = ORIGINALS as f64;
    let groups = (2.0 / (n * (PER_IMAGE - 1) as f64)).sqrt();
    let total = (2.0 / n).sqrt();
    let of_share = 4.0 * (groups.powi(2) + total.powi(2)).sqrt();
    // The regression adds about its number of parameters over the number of images, twice that
    // at most.
    let parameters = (2 * HIDDEN + HIDDEN + 4 * HIDDEN + 4) as f64;
    let excess = 2.0 * parameters / TRAINED as f64;
    let of_floor = 4.0 * (2.0f64).sqrt() * total + excess;

    let value = |name: &str| -> Result<[f64; 3]> {
        let floor = shares.floor(name, 0)?.map_or(f64::NAN, |f| f.value());
        Ok([
            floor,
            shares.share(name, 0)?.value(),
            shares.ceiling(name, 0)?.value(),
        ])
    };
    let [floor_linear, linear, shuffled] = value("linear")?;
    near(floor_linear, 0.5, 0.5 * of_floor);
    near(linear, 0.5, 0.5 * of_share);
    near(shuffled, 1.0, of_share);
    let [floor_sign, sign, shuffled] = value("sign")?;
    near(floor_sign, 0.0, excess);
    assert_eq!(sign, 0.0);
    near(shuffled, 1.0, of_share);
    let [floor_noise, noise, shuffled] = value("noise")?;
    near(floor_noise, 1.0, of_floor);
    near(noise, 1.0, of_share);
    near(shuffled, 1.0, of_share);

    let gap = shares.gap("linear", 0)?;
    let gap = gap.map_or(f64::NAN, |g| g.value());
    near(gap, linear - floor_linear, 1e-12);
    near(gap, 0.0, 0.5 * (of_share + of_floor));
    let curve = floor.curve("linear", 0)?;
    let images: Vec<usize> = curve.iter().map(|(images, _)| *images).collect();
    assert_eq!(images, [TRAINED / 4, TRAINED / 2, TRAINED]);
    near(curve[2].1.mean, floor_linear, 1e-12);
    assert!(floor.is_flat("linear")? && floor.is_flat("sign")?);

    let table = shares.table(0).csv();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("yes"), "{table}");
    shares.bars("The share that z leaves free", 0)?.figure()?;
    says(shares.share("linaer", 0), "did you mean \"linear\"");
    let renamed = floor_of("other", &seen, &z)?;
    says(shares.with_floor(&renamed), "linear, sign, noise");
    Ok(())
}

/// A floor of the factor `name` only, trained for a step.
fn floor_of(name: &str, seen: &Tensor, z: &Tensor) -> Result<Unexplained> {
    let one = |z: &Tensor| factors(z, 6)?.select(&["linear"])?.renamed("linear", name);
    let config = ProbeConfig {
        steps: 1,
        ..ProbeConfig::default()
    };
    Unexplained::fit(seen, &one(seen)?, z, &one(z)?, &config)
}

/// The sum of a hundred numbers, from few images: twice as many images show more of it.
#[test]
fn a_floor_from_few_images_is_not_flat() -> Result<()> {
    let data = |seed: u64, n: usize| -> Result<(Tensor, Targets)> {
        let z = Rng::new(seed).normal((n, 100), &Device::Cpu)?;
        let targets = Targets::default().with("sum", &z.sum(1)?)?;
        Ok((z, targets))
    };
    let ((z, targets), (new_z, new)) = (data(0, 320)?, data(1, 1000)?);
    let config = ProbeConfig {
        steps: 300,
        ..ProbeConfig::default()
    };
    let floor = Unexplained::fit(&z, &targets, &new_z, &new, &config)?;
    let curve = floor.curve("sum", 0)?;
    assert!(curve[2].1.mean < curve[0].1.mean - 0.1, "{curve:?}");
    assert!(!floor.is_flat("sum")?, "{curve:?}");
    let fit = |z: &Tensor, targets: &Targets| Unexplained::fit(z, targets, &new_z, &new, &config);
    says(fit(&z.narrow(0, 0, 7)?, &targets), "at least 8 images");
    let other = Targets::default().with("other", &z.sum(1)?)?;
    says(fit(&z, &other), "\"other\"");
    says(fit(&z, &Targets::default()), "at least one factor");
    let constant = Targets::default().with("sum", &Tensor::full(0.3f32, 320, &Device::Cpu)?)?;
    says(fit(&z, &constant), "does not vary over the training images");
    Ok(())
}

/// Early stopping keeps weights that have learned less of the noise.
#[test]
fn the_weights_with_the_lowest_validation_error_are_kept() -> Result<()> {
    let mut rng = Rng::new(0);
    let z = rng.normal((1400, 20), &Device::Cpu)?;
    let noise = rng.normal((1400, 1), &Device::Cpu)?;
    let unread = |validation: f64| -> Result<f64> {
        let config = ProbeConfig {
            steps: 800,
            validation,
            ..ProbeConfig::default()
        };
        let (seen, target) = (z.narrow(0, 0, 400)?, noise.narrow(0, 0, 400)?);
        let readout = Readout::train(&seen, &target, &config)?;
        let (new, truth) = (z.narrow(0, 400, 1000)?, noise.narrow(0, 400, 1000)?);
        Ok(mean(&readout.unread_share(&new, &truth)?))
    };
    let (all, stopped) = (unread(0.0)?, unread(0.5)?);
    assert!(stopped < 0.9 * all, "{stopped} {all}");
    says(unread(1.0), "[0, 1)");
    let (one, target) = (z.narrow(0, 0, 1)?, noise.narrow(0, 0, 1)?);
    let config = ProbeConfig {
        validation: 0.1,
        ..ProbeConfig::default()
    };
    says(Readout::train(&one, &target, &config), "two rows");
    Ok(())
}

/// Errors name the factor, and constant factors are found also where rounding hides it.
#[test]
fn factors_that_do_not_vary_are_errors() -> Result<()> {
    // 41 · (1/41) is not 1 in f32, nor 49 · (1/49) in f64.
    for n in [41usize, 49] {
        let constant = Tensor::ones((n, 1), DType::F32, &Device::Cpu)?;
        let samples = Tensor::ones((2 * n, 1), DType::F32, &Device::Cpu)?;
        says(free_share(&samples, &constant, 2), "does not vary");
        let targets = |x: &Tensor| Targets::default().with("hat", x);
        let shares = FreeShares::of(&targets(&samples)?, &targets(&constant)?, 2);
        assert!(matches!(&shares, Err(Error::Invalid(_))));
        says(shares, "factor hat");
    }
    let one = Tensor::ones((2, 1), DType::F32, &Device::Cpu)?;
    let targets = Targets::default().with("hat", &one)?;
    says(FreeShares::of(&targets, &targets, 1), "factor hat");
    says(
        FreeShares::of(&Targets::default(), &targets, 2),
        "at least one factor",
    );
    Ok(())
}

/// The interval of a free share contains the true one as often as it says. y and the samples are
/// half z, half noise: 0.5 is free. 200 repetitions with 100 originals; 95 % are expected, and fewer
/// than 88 % would be seen in one of 10,000 cases.
#[test]
fn intervals_of_free_shares_cover() -> Result<()> {
    let mut covered = 0;
    for seed in 0..200 {
        let mut rng = Rng::named(seed, "half free");
        let z = rng.normal((100, 1), &Device::Cpu)?;
        let own = rng.normal((100, 1), &Device::Cpu)?;
        let noise = rng.normal((800, 1), &Device::Cpu)?;
        let repeated = invariances::ops::repeated(&z, 8)?;
        let originals = Targets::default().with("y", &(&z + own)?)?;
        let samples = Targets::default().with("y", &(repeated + noise)?)?;
        let shares = FreeShares::of(&samples, &originals, 8)?;
        let e = shares.share("y", seed)?.estimate();
        covered += usize::from(e.low <= 0.5 && 0.5 <= e.high);
    }
    assert!(covered >= 176, "{covered} of 200 intervals contain 0.5");
    Ok(())
}
