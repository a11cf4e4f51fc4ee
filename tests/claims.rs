//! Verdicts of claims: by the interval of a difference, against thresholds and ranges, and in files of
//! earlier versions.

use invariances::Result;
use invariances::metric::{Estimate, Resampled};
use invariances::notebook::{Lab, Scale, Verdict};

/// A lab whose output goes to a folder of the test's own.
fn lab(folder: &tempfile::TempDir) -> Result<Lab> {
    let lab = Lab::open("test")?.with_out(folder.path());
    Ok(lab.with_scale(Scale::Quick).with_seed(5))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The difference of two means over the same images is known better than each of them.
#[test]
fn the_interval_of_the_difference_decides() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let ours: Vec<f64> = (0..200).map(|i| f64::from(i % 20) / 20.0).collect();
    let by = |i: usize| if i.is_multiple_of(2) { 0.03 } else { 0.05 };
    let theirs: Vec<f64> = ours.iter().enumerate().map(|(i, v)| v - by(i)).collect();
    let (a, b) = (Resampled::mean(&ours, 0), Resampled::mean(&theirs, 0));
    let paired = lab.claim("paired", &a).above("theirs", &b).state()?;
    assert_eq!(paired.verdict, Verdict::Holds, "{paired}");
    let other = paired.other.clone().unwrap();
    assert!(
        paired.interval.unwrap().0 < other.interval.unwrap().1,
        "the intervals overlap"
    );
    let difference = paired.difference.unwrap();
    assert!((difference.value - 0.04).abs() < 1e-9);
    let (low, high) = difference.interval.unwrap();
    assert!(low > 0.037 && high < 0.043, "{low} to {high}");
    // The other way round it fails. Means over other images, and means of which only the intervals
    // are known, count as independent: undecided.
    let fails = lab.claim("fails", &a).below("theirs", &b).state()?;
    assert_eq!(fails.verdict, Verdict::Fails, "{fails}");
    let apart = Resampled::mean(&theirs, 1);
    let apart = lab.claim("apart", &a).above("theirs", &apart).state()?;
    assert_eq!(apart.verdict, Verdict::Undecided, "{apart}");
    let only = lab
        .claim("only", a.estimate())
        .above("theirs", b.estimate());
    assert_eq!(only.state()?.verdict, Verdict::Undecided);
    // Without an interval on either side nothing is decided.
    let exact = lab.claim("exact", 0.9).above("theirs", 0.1).state()?;
    assert_eq!((exact.verdict, exact.p), (Verdict::Undecided, None));
    let table = lab.claims([&paired, &fails, &apart, &exact]);
    assert!(!table.hold() && lab.claims([&paired, &apart]).hold());
    assert_eq!(table.counts().to_string(), "1 hold, 1 fail, 2 undecided");
    assert!(table.html().contains("? no interval"));

    let text = std::fs::read(dir.path().join("claims/test.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(saved[0]["verdict"], "holds");
    assert_eq!(saved[0]["other"]["name"], "theirs");
    assert!(saved[0]["difference"]["low"].as_f64().unwrap() > 0.0);
    assert!(saved[0]["p"].as_f64().unwrap() < 1e-6);
    assert_eq!(saved[1]["holds"], false);
    Ok(())
}

/// Standard deviations are the intervals' widths divided by 3.92, here 0.0102 and 0.0153.
#[test]
fn thresholds_ranges_and_other_values_are_decided_alike() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let estimate = |mean: f64, half: f64| Estimate {
        mean,
        low: mean - half,
        high: mean + half,
        n: 100,
    };
    let nearer = lab.claim("nearer", estimate(0.41, 0.02));
    let nearer = nearer.below("D&B", estimate(0.58, 0.03)).state()?;
    assert_eq!(
        nearer.to_string(),
        "✓ nearer: 0.41 [0.39, 0.43], expected < D&B 0.58 [0.55, 0.61], difference −0.17 [−0.206, −0.134]"
    );
    for (value, verdict) in [
        (0.45, Verdict::Holds),
        (0.41, Verdict::Undecided),
        (0.39, Verdict::Undecided),
        (0.35, Verdict::Fails),
    ] {
        let claim = lab.claim("at-least", estimate(value, 0.02));
        let claim = claim.at_least(0.4).state()?;
        assert_eq!(claim.verdict, verdict, "{claim}");
        let claim = lab.claim("at-most", estimate(0.8 - value, 0.02));
        assert_eq!(claim.at_most(0.4).state()?.verdict, verdict);
        // Inside of a range, near its end, and outside, on both sides.
        for value in [value, 1.0 - value] {
            let claim = lab.claim("between", estimate(value, 0.02));
            let claim = claim.between(0.4, 0.6).state()?;
            assert_eq!(claim.verdict, verdict, "{claim}");
        }
    }
    let history = "≥ 0.4 since 2026-11; before: ≥ 0.5";
    let claim = lab.claim("history", estimate(0.45, 0.02)).at_least(0.4);
    let claim = claim.history(history).state()?;
    let text = format!("✓ history: 0.45 [0.43, 0.47], expected {history}");
    assert_eq!(claim.to_string(), text);
    assert!(lab.claims([&claim]).html().contains("before: ≥ 0.5"));
    let reported = lab.claim("reported", estimate(0.45, 0.02)).state()?;
    assert_eq!(reported.verdict, Verdict::Reported);
    assert!(!reported.holds() && reported.p.is_none());
    assert!(!lab.claims([&reported]).hold());
    let text = "– reported: 0.45 [0.43, 0.47], reported";
    assert_eq!(reported.to_string(), text);
    Ok(())
}

/// A file that an earlier version wrote has no p-values: `lab.study` shows it and changes nothing.
#[test]
fn older_claims_stay_as_they_are() -> Result<()> {
    let dir = folder();
    let lab = lab(&dir)?;
    let file = dir.path().join("claims/test.json");
    std::fs::create_dir_all(dir.path().join("claims")).unwrap();
    let older = r#"[{"notebook": "test", "name": "a", "statement": "It was so", "figure": null, "value": 0.5,
        "unit": "", "low": null, "high": null, "expected": "> D&B (0.4)", "holds": true, "scale": "quick"}]"#;
    std::fs::write(&file, older).unwrap();
    let table = lab.study(&1)?.to_string();
    assert!(table.contains("It was so") && table.contains("> D&B (0.4)"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), older);
    // Once this lab has stated a claim, those of an earlier run of other cells are left out.
    let new = lab.claim("b", 0.9).interval(0.8, 1.0).at_least(0.5);
    assert!(new.state()?.holds());
    let table = lab.study(&1)?.to_string();
    assert!(table.contains("1 hold, 0 fail, 0 undecided"), "{table}");
    let text = std::fs::read_to_string(&file).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(saved.as_array().map(Vec::len), Some(1));
    assert_eq!(saved[0]["name"], "b");
    assert_eq!(saved[0]["p_holm"], saved[0]["p"]);
    Ok(())
}
