//! Tests of studies: entries are added, replaced and taken from older studies, and decided.

use super::*;

fn claim(name: &str, value: f64, holds: bool) -> Value {
    json!({"name": name, "statement": name, "expected": "> other (0.123)", "value": value, "holds": holds})
}

fn measured(seed: u64, minutes: f64, configuration: &str, claims: &[Value]) -> SeedResult {
    SeedResult {
        seed,
        network: 0,
        minutes,
        conditions: Conditions {
            configuration: configuration.into(),
            device: "cpu".into(),
            ..Conditions::default()
        },
        claims: claims.to_vec(),
    }
}

/// Comments, layout, outputs and text cells are not part of the hash of the cells; code is.
#[test]
fn comments_and_layout_of_cells_do_not_count() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let path = folder.path().join("n.ipynb");
    let cells = |source: Value| -> Result<String> {
        let code = json!({"cell_type": "code", "source": source, "outputs": []});
        let text = json!({"cell_type": "markdown", "source": source});
        let notebook = json!({"cells": [text, code]}).to_string();
        std::fs::write(&path, notebook).map_err(|e| Error::io(&path, e))?;
        Study::cells_of(&path)
    };
    let first = cells(json!("let a = 1;\nf(a)"))?;
    let lines = json!(["// Why.\n", "let a = 1;  \n", "\n", "    f(a)"]);
    assert_eq!(cells(lines)?, first);
    assert_ne!(cells(json!("let a = 2;\nf(a)"))?, first);
    std::fs::write(&path, "{}").map_err(|e| Error::io(&path, e))?;
    assert!(Study::cells_of(&path).is_err());
    Ok(())
}

#[test]
fn seeds_are_added_replaced_and_kept_apart_by_configuration() -> Result<()> {
    let mut study = Study {
        notebook: "n".into(),
        scale: "quick".into(),
        ..Study::default()
    };
    study.add(&measured(0, 1.0, "abc", &[claim("a", 1.0, true)]))?;
    let both = [claim("a", 3.0, false), claim("b", 5.0, true)];
    study.add(&measured(1, 2.0, "abc", &both))?;
    let other = study.add(&measured(2, 1.0, "xyz", &[]));
    let text = other.unwrap_err().to_string();
    assert!(text.contains("another configuration"), "{text}");
    study.add(&measured(0, 1.5, "abc", &[claim("a", 2.0, true)]))?;
    assert_eq!(study.seeds, [0, 1]);
    assert_eq!(study.minutes, [1.5, 2.0]);
    assert_eq!(study.devices, ["cpu", "cpu"]);
    assert_eq!(study.claims[0].values, [Some(2.0), Some(3.0)]);
    assert_eq!(study.claims[0].holds, [true, false]);
    assert_eq!(study.claims[0].expected, "> other");
    assert_eq!(study.claims[1].values, [None, Some(5.0)]);
    let (mean, deviation) = study.claims[0].mean_and_deviation().unwrap_or_default();
    assert!((mean - 2.5).abs() < 1e-12 && (deviation - 0.5f64.sqrt()).abs() < 1e-12);

    // Copying one seed gives the same results; a seed that does not exist changes nothing.
    let mut taken = Study {
        notebook: "n".into(),
        scale: "quick".into(),
        ..Study::default()
    };
    taken.take(&study, 1, 0)?;
    taken.take(&study, 7, 0)?;
    taken.take(&study, 1, 1)?;
    taken.take(&study, 0, 0)?;
    assert_eq!(
        (&taken.seeds[..], &taken.minutes[..]),
        (&[1, 0][..], &[2.0, 1.5][..])
    );
    assert_eq!(taken.claims[0].values, [Some(3.0), Some(2.0)]);
    assert_eq!(taken.claims[1].values, [Some(5.0), None]);
    assert_eq!(taken.claims[0].expected, "> other");

    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let other = Study {
        settings: [("layer".into(), "conv1".into())].into(),
        ..study.clone()
    };
    study.keep(folder.path())?;
    other.keep(folder.path())?;
    study.minutes[0] = 9.0;
    study.keep(folder.path())?;
    assert_eq!(Study::all(folder.path(), "n")?, [study, other]);
    std::fs::write(folder.path().join("m.json"), "{").map_err(|e| Error::io("m", e))?;
    assert!(Study::all(folder.path(), "m").is_err());
    assert!(Study::all(folder.path(), "../m").is_err());
    Ok(())
}

/// A claim as this version stores it: the value, what it is compared with, and the difference.
fn compared(name: &str, value: f64, other: f64) -> Value {
    json!({
        "name": name, "statement": name, "expected": format!("> D&B (2020) {other} [0, 1]"),
        "direction": "above", "value": value, "holds": false,
        "other": {"name": "D&B (2020)", "value": other, "low": 0.0, "high": 1.0},
        "difference": {"value": value - other, "low": null, "high": null},
    })
}

fn entry(seed: u64, network: u64, claims: &[Value]) -> SeedResult {
    SeedResult {
        network,
        ..measured(seed, 1.0, "abc", claims)
    }
}

/// Entry (0, 0) belongs to both columns. Entries are replaced by both of their seeds.
#[test]
fn seeds_of_the_network_are_a_column_of_their_own() -> Result<()> {
    let mut study = Study {
        notebook: "n".into(),
        scale: "quick".into(),
        ..Study::default()
    };
    for (seed, network, value) in [
        (0, 0, 9.0),
        (1, 0, 5.0),
        (2, 0, 6.0),
        (0, 1, 1.0),
        (0, 2, 1.5),
    ] {
        study.add(&entry(seed, network, &[compared("a", value, 1.0)]))?;
    }
    study.add(&entry(0, 0, &[compared("a", 4.0, 1.5)]))?;
    let entries = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)];
    assert_eq!(study.entries(), entries);
    let claim = &study.claims[0];
    assert_eq!(claim.expected, "> D&B (2020)");
    assert_eq!(claim.differences[..2], [Some(2.5), Some(4.0)]);
    assert_eq!(claim.others[..2], [Some(1.5), Some(1.0)]);
    let columns = study.columns();
    assert_eq!(columns[0], ("seeds of t", vec![0, 1, 2]));
    assert_eq!(columns[1], ("seeds of the network", vec![0, 3, 4]));
    // Differences 2.5, 4, 5 are significant (p = 0.034), and 2.5, 0, 0.5 are not.
    let verdicts = |column: usize| -> Vec<Option<Verdict>> {
        let found = study.over(&columns[column].1);
        found.into_iter().map(|(_, verdict)| verdict).collect()
    };
    assert_eq!(verdicts(0), [Some(Verdict::Holds)]);
    assert_eq!(verdicts(1), [Some(Verdict::Undecided)]);

    let mut taken = Study {
        notebook: "n".into(),
        scale: "quick".into(),
        ..Study::default()
    };
    taken.take(&study, 0, 2)?;
    taken.take(&study, 1, 2)?;
    taken.take(&study, 1, 0)?;
    assert_eq!(taken.entries(), [(0, 2), (1, 0)]);
    let claim = &taken.claims[0];
    assert_eq!(claim.values, [Some(1.5), Some(5.0)]);
    assert_eq!(claim.differences, [Some(0.5), Some(4.0)]);
    assert_eq!(claim.others, [Some(1.0), Some(1.0)]);
    assert_eq!(claim.expected, "> D&B (2020)");
    assert_eq!(claim.direction, study.claims[0].direction);
    Ok(())
}

/// With a second claim that decides nothing, a p-value of 0.034 becomes 0.068.
#[test]
fn verdicts_over_seeds_are_corrected_over_the_claims() -> Result<()> {
    let study = |scale: &str| -> Result<Study> {
        let mut study = Study {
            notebook: "n".into(),
            scale: scale.into(),
            ..Study::default()
        };
        for (seed, a, b) in [(0, 4.0, 1.0), (1, 5.0, 0.0), (2, 6.0, 2.5)] {
            let other = if seed == 0 { 1.5 } else { 1.0 };
            let reported = json!({"name": "r", "value": a, "expected": "reported"});
            let claims = [compared("a", a, other), compared("b", b, 1.0), reported];
            study.add(&entry(seed, 0, &claims))?;
        }
        Ok(study)
    };
    let found = study("quick")?.over(&[0, 1, 2]);
    let p = found[0].0.and_then(|over| over.p).unwrap_or_default();
    assert!((0.03..0.04).contains(&p), "{p}");
    let verdicts: Vec<_> = found.iter().map(|(_, verdict)| *verdict).collect();
    let undecided = Some(Verdict::Undecided);
    assert_eq!(verdicts, [undecided, undecided, None]);
    let smoke = study("smoke")?.over(&[0, 1, 2]);
    assert_eq!(smoke[0].1, Some(Verdict::Smoke));
    let two = study("quick")?.over(&[0, 1]);
    assert!(two[0].1.is_none() && two[0].0.is_some_and(|over| over.n == 2));
    Ok(())
}

/// A study of an earlier version varied both seeds together, and has no differences.
#[test]
fn an_older_study_is_read_and_continued() -> Result<()> {
    let text = r#"{"notebook": "n", "scale": "quick", "configuration": "abc", "version": "0.1.0",
        "seeds": [0, 2], "minutes": [1.0, 2.0], "claims": [{"name": "a", "statement": "a",
        "expected": "> D&B", "values": [4.0, 5.0], "holds": [true, false]}]}"#;
    let older: Study =
        serde_json::from_str(text).map_err(|e| Error::invalid(format!("the older study: {e}")))?;
    assert_eq!(older.columns(), [("seeds of both", vec![0, 1])]);
    let (over, verdict) = older.over(&[0, 1])[0];
    assert_eq!(over.map(|over| over.mean), Some(4.5));
    assert_eq!(verdict, None);
    let mut study = older.clone();
    study.add(&entry(1, 0, &[compared("a", 6.0, 1.0)]))?;
    assert_eq!(study.entries(), [(0, 0), (2, 2), (1, 0)]);
    assert_eq!(study.columns()[0], ("seeds of t", vec![0, 2]));
    assert_eq!(study.claims[0].values, [Some(4.0), Some(5.0), Some(6.0)]);
    assert_eq!(study.claims[0].differences, [None, None, Some(5.0)]);
    let mut taken = Study::default();
    taken.take(&older, 2, 2)?;
    assert_eq!(taken.entries(), [(2, 2)]);
    assert_eq!(taken.claims[0].expected, "> D&B");
    Ok(())
}
