//! Statistics of `metric`: against values of scipy, statsmodels and numpy
//! (`tests/reference/statistics/make.py`), against cases whose answer is known, and rates of false
//! alarms.

use invariances::backbone::plain_small;
use invariances::interpret::Fid;
use invariances::metric::{Resampled, holm, hsic, normal_cdf, student_p, uniform, uniform_ranks};
use invariances::prelude::*;
use invariances::{Error, Result};
use serde_json::Value;

fn reference(part: &str) -> Value {
    let text = include_str!("reference/statistics/values.json");
    let mut all: Value = serde_json::from_str(text).expect("JSON");
    all[part].take()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(number).collect()
}

fn matrix(value: &Value) -> Result<Tensor> {
    let rows: Vec<Vec<f64>> = list(value).iter().map(numbers).collect();
    let shape = (rows.len(), rows[0].len());
    Ok(Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?)
}

fn close(found: f64, expected: f64, relative: f64) {
    assert!(
        (found - expected).abs() <= relative * expected.abs(),
        "{found}, expected {expected}"
    );
}

fn says<T>(result: Result<T>, part: &str) {
    match result {
        Ok(_) => panic!("expected an error that says {part:?}"),
        Err(e) => assert!(e.to_string().contains(part), "{e}"),
    }
}

fn normal(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| f64::from(rng.normal_f32())).collect()
}

fn width(statistic: &Resampled) -> f64 {
    let e = statistic.estimate();
    e.high - e.low
}

#[test]
fn kolmogorov_smirnov_is_that_of_scipy() -> Result<()> {
    for case in list(&reference("kolmogorov")) {
        let values = numbers(&case["values"]);
        let found = uniform(&values)?;
        close(found.statistic, number(&case["statistic"]), 1e-12);
        // The exact p-value is that of Kolmogorov's distribution at x + 1/(6√n), up to terms of
        // 1/n (Pelz and Good 1976). With density f, the p-value at Stephens' x (1 + 0.12/√n) is
        // off by |0.12 x − 1/6| f(x)/√n: at most 0.139/√n, and 0.0097/√n where p ≤ 0.1.
        let (n, p) = (values.len() as f64, number(&case["p"]));
        let first = if p <= 0.1 { 0.01 } else { 0.14 };
        let bound = first / n.sqrt() + 0.1 / n;
        assert!((found.p - p).abs() <= bound, "{} and {p} for {n}", found.p);
    }
    says(uniform(&[]), "found 0");
    says(uniform(&[0.5, 1.5]), "found 1.5");
    says(uniform(&[0.5, f64::NAN]), "found NaN");
    Ok(())
}

#[test]
fn student_and_normal_are_those_of_scipy() {
    let all = reference("student");
    for case in list(&all["two_sided"]) {
        let case = numbers(case);
        close(student_p(case[0], case[1]), case[2], 1e-7);
        close(student_p(-case[0], case[1]), case[2], 1e-7);
    }
    for case in list(&all["normal"]) {
        let case = numbers(case);
        close(normal_cdf(case[0]), case[1], 1e-10);
    }
    assert_eq!(student_p(0.0, 3.0), 1.0);
    assert_eq!(student_p(f64::INFINITY, 3.0), 0.0);
    close(student_p(2.0, f64::INFINITY), 2.0 * normal_cdf(-2.0), 1e-12);
    assert!(student_p(f64::NAN, 3.0).is_nan() && student_p(1.0, 0.0).is_nan());
}

#[test]
fn holm_is_that_of_statsmodels() {
    for case in list(&reference("holm")) {
        let (p, expected) = (numbers(&case[0]), numbers(&case[1]));
        let found = holm(&p);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            close(*found, expected, 1e-12);
        }
    }
    // NaN is not a test.
    let found = holm(&[0.25, f64::NAN, 0.125]);
    assert!(found[1].is_nan());
    assert_eq!([found[0], found[2]], [0.25, 0.25]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn hsic_is_what_its_definition_says() -> Result<()> {
    for case in list(&reference("hsic")) {
        let (a, b) = (matrix(&case["a"])?, matrix(&case["b"])?);
        let found = hsic(&a, &b, 99, 0)?;
        close(found.value, number(&case["value"]), 1e-9);
        close(found.normalized, number(&case["normalized"]), 1e-9);
        assert_eq!(found, hsic(&a, &b, 99, 0)?);
        let (mean, quantile) = found.null;
        assert!(
            0.0 < mean && mean < quantile && quantile < 1.0,
            "{mean}, {quantile}"
        );
        // Both kernels scale with their bandwidth, so units do not matter.
        let scaled = hsic(&(&a * 1000.0)?, &b, 99, 0)?;
        close(scaled.normalized, found.normalized, 1e-9);
    }
    let a = Rng::new(0).normal((30, 2), &Device::Cpu)?;
    let same = hsic(&a, &a, 99, 0)?;
    close(same.normalized, 1.0, 1e-12);
    assert_eq!(same.p, 0.01);
    // Two values in each column: many permutations give the same HSIC up to rounding. All four
    // combinations occur equally often, so HSIC is 0 and no permutation is below it.
    let two = |period: usize| -> Result<Tensor> {
        let values = (0..32).map(|i| f64::from(u8::from(i % (2 * period) < period)));
        let values: Vec<f64> = values.collect();
        Ok(Tensor::from_vec(values, (32, 1), &Device::Cpu)?)
    };
    assert_eq!(hsic(&two(1)?, &two(2)?, 199, 0)?.p, 1.0);
    Ok(())
}

#[test]
fn hsic_says_what_it_cannot_test() -> Result<()> {
    let a = Rng::new(0).normal((30, 2), &Device::Cpu)?;
    let constant = Tensor::full(0.1f32, (30, 3), &Device::Cpu)?;
    says(hsic(&a, &constant, 99, 0), "second input");
    says(hsic(&constant, &a, 99, 0), "first input");
    says(hsic(&a, &(&a / 0.0)?, 99, 0), "NaN or infinity");
    says(hsic(&a, &a.narrow(0, 0, 29)?, 99, 0), "[29, 2]");
    says(hsic(&a, &a, 0, 0), "at least one permutation");
    let long = Tensor::zeros((4097, 1), DType::F32, &Device::Cpu)?;
    says(hsic(&long, &long, 99, 0), "pass fewer rows");
    Ok(())
}

/// At level 0.05, 3 to 7 % of 2000 tests of independent features reject: four standard deviations
/// of a binomial.
#[test]
fn hsic_raises_as_many_false_alarms_as_it_says() -> Result<()> {
    let mut alarms = 0;
    for seed in 0..2000 {
        let mut rng = Rng::named(seed, "independent");
        let a = rng.normal((60, 2), &Device::Cpu)?;
        let b = rng.normal((60, 2), &Device::Cpu)?;
        alarms += usize::from(hsic(&a, &b, 199, seed)?.p <= 0.05);
    }
    assert!((60..=140).contains(&alarms), "{alarms} of 2000");
    Ok(())
}

/// As for HSIC.
#[test]
fn uniform_ranks_raises_as_many_false_alarms_as_it_says() -> Result<()> {
    let mut alarms = 0;
    for seed in 0..2000 {
        let mut rng = Rng::named(seed, "ranks");
        let ranks: Vec<usize> = (0..60).map(|_| rng.below(100)).collect();
        alarms += usize::from(uniform_ranks(&ranks, 100, seed)?.p <= 0.05);
    }
    assert!((60..=140).contains(&alarms), "{alarms} of 2000");
    Ok(())
}

#[test]
fn uniform_ranks_measures_the_largest_difference() -> Result<()> {
    // Of four levels, ranks 0 and 3 twice each: 1/2 − 1/4 after rank 0, 3/4 − 1/2 before rank 3.
    assert_eq!(uniform_ranks(&[3, 0, 3, 0], 4, 0)?.statistic, 0.25);
    // All in the last level: the difference is largest just before it.
    assert_eq!(uniform_ranks(&[3; 60], 4, 0)?.statistic, 0.75);
    assert_eq!(uniform_ranks(&[3; 60], 4, 0)?.p, 0.001);
    // One level is always uniform.
    let one = uniform_ranks(&[0; 5], 1, 0)?;
    assert_eq!((one.statistic, one.p), (0.0, 1.0));
    says(uniform_ranks(&[0, 4], 4, 0), "found 4");
    says(uniform_ranks(&[], 4, 0), "found 0");
    Ok(())
}

#[test]
fn intervals_of_means_are_those_of_scipy() {
    for case in list(&reference("bootstrap")) {
        let mean = Resampled::mean(&numbers(&case["values"]), 0);
        let (e, error) = (mean.estimate(), number(&case["error"]));
        // Standard deviation of a 2.5 % percentile of 2000 normal replicates: √(0.025 · 0.975 /
        // 2000) / 0.0584 = 0.06 standard errors. Four of them.
        assert!((e.low - number(&case["low"])).abs() < 0.24 * error, "{e}");
        assert!((e.high - number(&case["high"])).abs() < 0.24 * error, "{e}");
        // And of a standard deviation: 1/√4000.
        let deviation = mean.deviation().expect("replicates");
        close(deviation, error, 4.0 / 4000f64.sqrt());
        assert_eq!(bootstrap_mean(&numbers(&case["values"]), 0), e);
    }
}

#[test]
fn values_that_are_missing_give_nan() -> Result<()> {
    let cases: [(&[f64], usize); 3] = [
        (&[], 0),
        (&[1.0, f64::NAN], 2),
        (&[f64::INFINITY, 1.0, 2.0], 3),
    ];
    for (values, n) in cases {
        let groups: Vec<u32> = (0..n as u32).collect();
        for mean in [
            Resampled::mean(values, 0),
            Resampled::mean_of_groups(values, &groups, 0)?,
        ] {
            let e = mean.estimate();
            assert!(e.mean.is_nan() && e.low.is_nan() && e.high.is_nan());
            assert_eq!(e.n, n);
            assert_eq!(mean.p_value(0.0), None);
        }
    }
    says(
        Resampled::mean_of_groups(&[1.0], &[], 0),
        "1 values and 0 groups",
    );
    says(
        Resampled::statistic(0, 10, 0, |_| Ok(0.0)),
        "found 0 images",
    );
    says(Resampled::statistic(9, 0, 0, |_| Ok(0.0)), "0 resamples");
    let fails = Resampled::statistic(9, 5, 0, |_| Err(Error::invalid("no statistic")));
    says(fails, "no statistic");
    Ok(())
}

/// Replicate r of any statistic uses the same images as replicate r of a mean.
#[test]
fn a_statistic_that_is_the_mean_is_the_mean() -> Result<()> {
    let values = normal(50, 0);
    let mean = |images: &[usize]| -> Result<f64> {
        Ok(images.iter().map(|&i| values[i]).sum::<f64>() / images.len() as f64)
    };
    let statistic = Resampled::statistic(50, 2000, 7, mean)?;
    assert_eq!(statistic, Resampled::mean(&values, 7));
    // Fewer resamples are the first ones; another seed, or another number, has others.
    let fewer = Resampled::statistic(50, 20, 7, mean)?;
    assert_eq!(fewer.replicates(), &statistic.replicates()[..20]);
    assert_ne!(
        statistic.replicates(),
        Resampled::mean(&values, 8).replicates()
    );
    Ok(())
}

#[test]
fn frames_of_one_person_are_one_observation() -> Result<()> {
    let people = normal(10, 1);
    let groups: Vec<u32> = (0..300).map(|i| i / 30).collect();
    let frames: Vec<f64> = groups.iter().map(|&g| people[g as usize]).collect();
    let (one, all) = (
        Resampled::mean(&people, 3).estimate(),
        Resampled::mean_of_groups(&frames, &groups, 3)?,
    );
    let e = all.estimate();
    assert_eq!((all.n(), e.n), (10, 10));
    for (found, expected) in [(e.mean, one.mean), (e.low, one.low), (e.high, one.high)] {
        assert!(
            (found - expected).abs() < 1e-12,
            "{found}, expected {expected}"
        );
    }
    // The frames as if they were independent: an interval that is √30 times too narrow.
    let narrow = width(&Resampled::mean(&frames, 3));
    close(width(&all) / narrow, 30f64.sqrt(), 0.25);
    // The order of the frames does not matter, and larger groups weigh more.
    let (frames, groups): (Vec<f64>, Vec<u32>) = frames.into_iter().zip(groups).rev().unzip();
    let turned = Resampled::mean_of_groups(&frames, &groups, 3)?.estimate();
    assert!((turned.low - e.low).abs() < 1e-12 && (turned.high - e.high).abs() < 1e-12);
    let uneven = Resampled::mean_of_groups(&[1.0, 1.0, 1.0, 5.0], &[4, 4, 4, 9], 0)?;
    assert_eq!(uneven.value(), 2.0);
    // Of two groups, a resample has both, or one of them twice.
    assert!(
        uneven
            .replicates()
            .iter()
            .all(|r| [1.0, 2.0, 5.0].contains(r))
    );
    Ok(())
}

#[test]
fn a_paired_difference_is_narrower() {
    let before = normal(80, 2);
    let after: Vec<f64> = before
        .iter()
        .zip(normal(80, 3))
        .map(|(b, e)| b + 0.1 * e)
        .collect();
    let (first, second) = (Resampled::mean(&before, 0), Resampled::mean(&after, 0));
    let unpaired = Resampled::mean(&after, 1).minus(&first);
    let paired = second.minus(&first);
    // Standard errors 0.1 and √2 per value.
    assert!(width(&paired) < 0.2 * width(&unpaired));
    // It is the mean of the differences.
    let differences: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let direct = Resampled::mean(&differences, 0);
    assert_eq!(direct.replicates().len(), paired.replicates().len());
    let mut pairs = paired.replicates().iter().zip(direct.replicates());
    assert!(pairs.all(|(p, d)| (p - d).abs() < 1e-12));
    // A statistic does not differ from itself.
    let none = first.minus(&first).estimate();
    assert_eq!((none.mean, none.low, none.high), (0.0, 0.0, 0.0));
}

#[test]
fn parts_are_combined_replicate_by_replicate() -> Result<()> {
    let (two, three) = (Resampled::exact(2.0), Resampled::from(3.0));
    assert_eq!(two.minus(&three), Resampled::exact(-1.0));
    assert_eq!(three.over(&two).estimate(), Estimate::exact(1.5));
    let values = normal(40, 5);
    let mean = Resampled::mean(&values, 0);
    let shifted = mean.minus(&two);
    assert_eq!((shifted.n(), shifted.replicates().len()), (40, 2000));
    assert!(
        mean.replicates()
            .iter()
            .zip(shifted.replicates())
            .all(|(m, s)| m - 2.0 == *s)
    );
    // The part with the fewest replicates and the one with the fewest images decide.
    let few = Resampled::statistic(60, 100, 0, |images| Ok(images.len() as f64))?;
    let both = Resampled::combine(&[&two, &mean, &few], |v| v[0] * v[1] * v[2]);
    assert_eq!((both.n(), both.replicates().len()), (40, 100));
    close(both.replicates()[99], 120.0 * mean.replicates()[99], 1e-12);
    assert_eq!(both.to_string(), both.estimate().to_string());
    assert_eq!(Estimate::from(&both), both.estimate());
    // A ratio that has no value in some resample has no interval.
    let rare = Resampled::mean(&[0.0, 0.0, 1.0], 0);
    let undefined = rare.over(&rare).estimate();
    assert!(undefined.mean == 1.0 && undefined.low.is_nan() && undefined.high.is_nan());
    Ok(())
}

#[test]
fn p_values_follow_from_the_deviation() {
    let mean = Resampled::mean(&normal(100, 6), 0);
    let deviation = mean.deviation().expect("replicates");
    // Student's t with 99 degrees of freedom; resampling 100 values makes the deviation too small.
    let error = deviation * (100.0f64 / 99.0).sqrt();
    for (distance, expected) in [(0.0, 1.0), (1.984_216_952, 0.05), (-2.626_405_457, 0.01)] {
        let p = mean.p_value(mean.value() + distance * error);
        close(p.expect("replicates"), expected, 1e-6);
    }
    let (low, high) = mean.interval().expect("replicates");
    close(high - mean.value(), 1.984_216_952 * error, 1e-6);
    close(mean.value() - low, 1.984_216_952 * error, 1e-6);
    assert_eq!(mean.p_value(f64::NAN), None);
    let exact = Resampled::exact(1.0);
    assert_eq!((exact.p_value(1.0), exact.deviation()), (None, None));
    // The sum of ten times 0.1 is not 1; equal values have no deviation all the same.
    // A hundred of them decide; ten do not, and one image never does.
    let equal = |n: usize| Resampled::mean(&vec![0.1; n], 0);
    let of = |n: usize| (equal(n).p_value(0.1), equal(n).p_value(0.2));
    assert_eq!(of(100), (Some(1.0), Some(0.0)));
    assert_eq!(of(10), (Some(1.0), None));
    assert_eq!(of(1), (None, None));
    assert_eq!((equal(10).interval(), equal(1).interval()), (None, None));
}

#[test]
fn centred_replicates_have_the_value_as_their_mean() -> Result<()> {
    let values = normal(30, 7);
    let square = Resampled::statistic(30, 500, 0, |images| {
        let mean = images.iter().map(|&i| values[i]).sum::<f64>() / 30.0;
        Ok(mean * mean)
    })?;
    let average = |s: &Resampled| s.replicates().iter().sum::<f64>() / 500.0;
    // The square of a mean is biased upwards by its variance, about 1/30.
    assert!(average(&square) > square.value() + 0.005);
    let centred = square.centred();
    assert!((average(&centred) - centred.value()).abs() < 1e-12);
    assert_eq!(centred.value(), square.value());
    assert!((width(&centred) - width(&square)).abs() < 1e-12);
    Ok(())
}

/// Replicates of two sets of images are paired, and the value is that without replicates.
#[test]
fn frechet_distances_are_paired() -> Result<()> {
    let network = plain_small(10, &Params::new(0).root())?.frozen()?;
    let digits = Digits::strokes(32, 0)?;
    let real = digits.batch(Split::Validation, 0, 150)?.images;
    let images = digits.batch(Split::Test, 0, 100)?.images;
    let fid = Fid::new(&network.at("pool")?, &real)?.in_units()?;
    let found = fid.resampled(&images, 40, 0)?;
    assert_eq!((found.n(), found.replicates().len()), (100, 40));
    close(found.value(), fid.of(&images)?, 1e-9);
    let average = found.replicates().iter().sum::<f64>() / 40.0;
    close(average, found.value(), 1e-9);
    assert!(width(&found) > 0.0);
    // The same images: paired replicates have no difference, unpaired ones do. (At first images dimmed
    // by 5 % were asked to have half the deviation of unpaired ones, a guess: it was 0.69 of it.)
    let deviation = |s: &Resampled| s.deviation().expect("replicates");
    let paired = fid.resampled(&images, 40, 0)?.minus(&found);
    let unpaired = fid.resampled(&images, 40, 1)?.minus(&found);
    assert!(deviation(&paired) < 1e-12 && deviation(&unpaired) > 1e-4);
    says(fid.resampled(&images, 0, 0), "0 resamples");
    says(
        fid.resampled(&images.narrow(0, 0, 1)?, 10, 0),
        "at least two rows",
    );
    Ok(())
}
