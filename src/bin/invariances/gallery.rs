//! Writes the results of a run: `claims.json`, `run.json` and the page `index.html`, made from
//! the figures and claims that the notebooks wrote.
//!
//! `page.rs` writes the page; this file reads and writes the rest.

use crate::page::{SMOKE, page};
use invariances::files::write_atomic;
use invariances::notebook::{Counts, Verdict, correct_claims};
use invariances::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A claim as the notebook wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub notebook: String,
    pub name: String,
    pub statement: String,
    /// The file name of the figure, without its extension.
    pub figure: Option<String>,
    /// `None` if the measured value is NaN or infinite.
    pub value: Option<f64>,
    #[serde(default)]
    pub unit: String,
    #[serde(default)]
    pub low: Option<f64>,
    #[serde(default)]
    pub high: Option<f64>,
    #[serde(default)]
    pub expected: String,
    /// Since when this is expected, and what was expected before.
    #[serde(default)]
    pub history: Option<String>,
    /// The other measured value with which this one is compared.
    #[serde(default)]
    pub other: Option<Compared>,
    /// The value minus what is expected.
    #[serde(default)]
    pub difference: Option<Compared>,
    #[serde(default)]
    pub p: Option<f64>,
    /// The p-value with Holm's correction over the notebook's claims.
    #[serde(default)]
    pub p_holm: Option<f64>,
    /// `None` in a claim of an earlier version.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    pub holds: bool,
    #[serde(default)]
    pub scale: String,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub version: String,
}

/// A value that belongs to a claim, with its interval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub value: Option<f64>,
    #[serde(default)]
    pub low: Option<f64>,
    #[serde(default)]
    pub high: Option<f64>,
}

impl Claim {
    /// Returns the verdict. Claims of an earlier version have none: they held or not, and so did
    /// values that are only reported.
    pub fn verdict(&self) -> Verdict {
        match self.verdict {
            _ if self.scale == SMOKE => Verdict::Smoke,
            Some(verdict) => verdict,
            None if self.expected.starts_with("reported") => Verdict::Reported,
            None if self.holds => Verdict::Holds,
            None => Verdict::Fails,
        }
    }
}

/// The result of executing a notebook. It is stored in `run.json`, so that running one notebook
/// keeps the others on the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub notebook: String,
    pub title: String,
    pub scale: String,
    pub seed: u64,
    pub version: String,
    pub seconds: f64,
    pub cells: usize,
    pub ran: usize,
    pub error: Option<String>,
}

/// The result of [`write()`].
pub struct Summary {
    pub counts: Counts,
    /// One error per claims file that could not be read.
    pub errors: Vec<Error>,
}

/// Returns the records of earlier runs into `out`.
///
/// # Errors
/// [`Error::Content`] if the file exists but was not written by `run`.
pub fn read_records(out: &Path) -> Result<Vec<Record>> {
    let path = out.join("run.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::content(&path, format!("expected the list of notebooks that an earlier run wrote: {e}; remove the file or choose another folder with --out"))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// Removes the results of an earlier run of `notebook` from `out`.
///
/// # Errors
/// [`Error::Io`] if a file cannot be removed.
pub fn remove(out: &Path, notebook: &str) -> Result<()> {
    let remove = |path: &Path| match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    };
    remove(&out.join(format!("{notebook}.ipynb")))?;
    remove(&claims_file(out, notebook))?;
    for figure in figures(out, notebook)? {
        remove(&figure)?;
    }
    Ok(())
}

/// Writes `claims.json`, `run.json` and `index.html` from the content of `out`. A claims file
/// that cannot be read is skipped and reported in the summary.
///
/// # Errors
/// [`Error::Io`] if one of the files cannot be written.
pub fn write(out: &Path, records: &[Record]) -> Result<Summary> {
    let mut claims = Vec::new();
    let mut errors = Vec::new();
    for record in records {
        // A notebook that stopped before its last cell has verdicts of each claim alone.
        match correct_claims(&claims_file(out, &record.notebook)) {
            // Reading them below says what is wrong with the content.
            Ok(()) | Err(Error::Content { .. }) => {}
            Err(error) => errors.push(error),
        }
        match read_claims(out, &record.notebook) {
            Ok(of_this) => claims.extend(of_this),
            Err(error) => errors.push(error),
        }
    }
    for claim in &mut claims {
        let verdict = claim.verdict();
        claim.verdict = Some(verdict);
        claim.holds = verdict == Verdict::Holds;
    }
    write_json(out.join("claims.json"), &claims)?;
    write_json(out.join("run.json"), records)?;
    let mut figures_of = Vec::new();
    for record in records {
        figures_of.push(stems(&figures(out, &record.notebook)?));
    }
    let page = page(records, &claims, &figures_of, &errors, |file| {
        out.join(file).is_file()
    });
    write_atomic(out.join("index.html"), page.as_bytes())?;
    Ok(Summary {
        counts: claims.iter().map(Claim::verdict).collect(),
        errors,
    })
}

fn write_json<T: Serialize + ?Sized>(path: PathBuf, what: &T) -> Result<()> {
    let text =
        serde_json::to_string_pretty(what).map_err(|e| Error::content(&path, e.to_string()))?;
    write_atomic(path, (text + "\n").as_bytes())
}

fn claims_file(out: &Path, notebook: &str) -> PathBuf {
    out.join("claims").join(format!("{notebook}.json"))
}

/// Returns a notebook's claims, or an empty list if it wrote none.
fn read_claims(out: &Path, notebook: &str) -> Result<Vec<Claim>> {
    let path = claims_file(out, notebook);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::content(
                path,
                format!("expected an array of claims: {e}; run the notebook again"),
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// Returns the files of a notebook's figures, sorted by name.
fn figures(out: &Path, notebook: &str) -> Result<Vec<PathBuf>> {
    let names = |dir: &Path, ends: &[&str]| -> Result<Vec<PathBuf>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                let mut files: Vec<PathBuf> = entries
                    .flatten()
                    .map(|e| e.path())
                    .filter(|p| {
                        p.extension()
                            .is_some_and(|e| ends.iter().any(|end| e == *end))
                    })
                    .collect();
                files.sort();
                Ok(files)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(dir, e)),
        }
    };
    // If a notebook `a-b` exists, the figure `a-b-figure` belongs to it and not to `a`.
    let longer: Vec<String> = names(out, &["ipynb"])?
        .iter()
        .filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned()))
        .filter(|stem| stem.starts_with(&format!("{notebook}-")))
        .map(|stem| format!("{stem}-"))
        .collect();
    let prefix = format!("{notebook}-");
    Ok(
        names(&out.join("figures"), &["png", "svg", "pdf", "csv", "html"])?
            .into_iter()
            .filter(|path| {
                path.file_name().and_then(|n| n.to_str()).is_some_and(|n| {
                    n.starts_with(&prefix) && !longer.iter().any(|l| n.starts_with(l.as_str()))
                })
            })
            .collect(),
    )
}

/// Returns the names of the figures in the order in which the notebook drew them.
fn stems(files: &[PathBuf]) -> Vec<String> {
    let mut drawn: Vec<_> = files
        .iter()
        .filter_map(|path| {
            let time = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
            Some((time, path.file_stem()?.to_str()?.to_owned()))
        })
        .collect();
    drawn.sort();
    let mut seen = BTreeSet::new();
    drawn
        .into_iter()
        .map(|(_, stem)| stem)
        .filter(|stem| seen.insert(stem.clone()))
        .collect()
}

/// Returns the first heading of a notebook.
pub fn title(notebook: &Path) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(notebook).ok()?).ok()?;
    json["cells"]
        .as_array()?
        .iter()
        .filter(|c| c["cell_type"] == "markdown")
        .find_map(|cell| {
            let source = match &cell["source"] {
                serde_json::Value::Array(lines) => {
                    lines.iter().filter_map(|l| l.as_str()).collect::<String>()
                }
                text => text.as_str()?.to_owned(),
            };
            let heading = source
                .lines()
                .find_map(|l| l.trim_start().strip_prefix('#'))?;
            let heading = heading.trim_start_matches('#').trim().trim_matches('*');
            (!heading.is_empty()).then(|| heading.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(notebook: &str) -> Record {
        Record {
            notebook: notebook.into(),
            title: "What <b> is & \"free\"?".into(),
            scale: "quick".into(),
            seed: 0,
            version: "0.1.0".into(),
            seconds: 83.2,
            cells: 9,
            ran: 9,
            error: None,
        }
    }

    fn claim(name: &str, figure: Option<&str>) -> String {
        format!(
            r#"{{"notebook":"01_x","name":"{name}","statement":"<script>alert('{name}')</script>","figure":{},
               "value":0.9623,"unit":"share & <i>","low":0.951,"high":0.972,"expected":"\"> 0.9\"","holds":true,
               "scale":"quick","seed":0,"version":"0.1.0"}}"#,
            figure.map_or("null".into(), |f| format!("\"{f}\""))
        )
    }

    fn sample() -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        let claims = format!(
            "[{},{},{}]",
            claim("a", Some("grid")),
            claim("b", Some("01_x-grid")),
            claim("c", None)
        );
        write_atomic(out.path().join("claims/01_x.json"), claims.as_bytes()).unwrap();
        for file in [
            "01_x-grid.png",
            "01_x-grid.svg",
            "01_x-y-other.png",
            "02_z-curve.png",
        ] {
            write_atomic(out.path().join("figures").join(file), b"x").unwrap();
        }
        for file in ["01_x.ipynb", "01_x-y.ipynb"] {
            write_atomic(out.path().join(file), b"{}").unwrap();
        }
        out
    }

    /// An interactive figure is shown in a frame, with links to its static image and its numbers.
    /// All of these files are removed with the notebook.
    #[test]
    fn what_a_reader_moves_is_shown_in_a_frame() {
        let out = sample();
        for file in [
            "01_x-move.html",
            "01_x-move.png",
            "01_x-move.csv",
            "01_x-run.png",
        ] {
            write_atomic(out.path().join("figures").join(file), b"x").unwrap();
        }
        write(out.path(), &[record("01_x")]).unwrap();
        let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
        assert!(page.contains("<iframe src=\"figures/01_x-move.html\""));
        assert!(!page.contains("<img src=\"figures/01_x-move.png\""));
        assert!(page.contains("<img class=\"film\" src=\"figures/01_x-run.png\""));
        for kind in ["html", "png", "csv"] {
            assert!(
                page.contains(&format!("href=\"figures/01_x-move.{kind}\"")),
                "{kind}"
            );
        }
        remove(out.path(), "01_x").unwrap();
        for kind in ["html", "png", "csv"] {
            let file = out.path().join(format!("figures/01_x-move.{kind}"));
            assert!(!file.exists(), "{kind} is left behind");
        }
    }

    #[test]
    fn the_page_shows_figures_with_their_claims_and_escapes_what_is_text() {
        let out = sample();
        let summary = write(out.path(), &[record("01_x")]).unwrap();
        // Claims of an earlier version, without a verdict.
        assert_eq!(summary.counts.to_string(), "3 hold, 0 fail, 0 undecided");
        assert!(summary.errors.is_empty());
        let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
        assert!(!page.contains("<script") && !page.contains("<i>\"") && !page.contains("<b> is"));
        assert!(page.contains("&lt;script&gt;alert(&#39;a&#39;)"));
        assert!(page.contains("What &lt;b&gt; is &amp; &quot;free&quot;?"));
        assert!(page.contains("0.962") && page.contains("[0.951, 0.972]"));
        assert!(page.contains("<img src=\"figures/01_x-grid.png\""));
        assert!(
            page.contains("href=\"figures/01_x-grid.svg\"") && page.contains("href=\"01_x.ipynb\"")
        );
        assert!(
            !page.contains("other") && !page.contains("curve"),
            "another notebook's figure"
        );
        // A claim is shown next to its figure with and without the notebook's prefix; the third
        // claim has no figure and gets its own article.
        assert_eq!(page.matches("<article>").count(), 2);
        let beside = page.split("</article>").next().unwrap();
        assert_eq!(beside.matches("<li").count(), 2);
        let record = Record {
            scale: SMOKE.into(),
            ..record("01_x")
        };
        let short = std::fs::read_to_string(out.path().join("claims/01_x.json")).unwrap();
        let short = short.replace("quick", SMOKE);
        write_atomic(out.path().join("claims/01_x.json"), short.as_bytes()).unwrap();
        write(out.path(), &[record]).unwrap();
        let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
        assert!(!page.contains("✓") && page.contains("not meaningful at the scale smoke"));
        let claims: Vec<Claim> =
            serde_json::from_slice(&std::fs::read(out.path().join("claims.json")).unwrap())
                .unwrap();
        assert_eq!(claims.len(), 3);
        assert!(
            claims
                .iter()
                .all(|c| c.verdict == Some(Verdict::Smoke) && !c.holds)
        );
        assert_eq!(read_records(out.path()).unwrap().len(), 1);
    }

    /// What is undecided or only reported does not count as holding, in this version and in an
    /// earlier one. The other value, the difference and the history are shown.
    #[test]
    fn each_verdict_has_its_mark_and_its_count() {
        let claim = |name: &str, verdict: &str| {
            format!(
                r#"{{"notebook":"02_z","name":"{name}","statement":"{name} is so","figure":null,"value":0.41,
                   "expected":"< D&B 0.58 [0.55, 0.61]","history":"< D&B since 2026-11; before: ≤ 0.5",
                   "other":{{"name":"D&B","value":0.58,"low":0.55,"high":0.61}},
                   "difference":{{"value":-0.17,"low":-0.21,"high":-0.13}},"p":0.001,"p_holm":0.004,
                   "verdict":"{verdict}","holds":{},"scale":"quick"}}"#,
                verdict == "holds"
            )
        };
        let claims = format!(
            "[{},{},{},{},{}]",
            claim("a", "holds"),
            claim("b", "fails"),
            claim("c", "undecided"),
            claim("d", "reported"),
            r#"{"notebook":"02_z","name":"e","statement":"e is older","figure":null,"value":1.0,"expected":"reported","holds":true}"#,
        );
        let out = sample();
        write_atomic(out.path().join("claims/02_z.json"), claims.as_bytes()).unwrap();
        let summary = write(out.path(), &[record("02_z")]).unwrap();
        assert_eq!(summary.counts.to_string(), "1 hold, 1 fail, 1 undecided");
        let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
        assert_eq!(page.matches("1 hold, 1 fail, 1 undecided").count(), 2);
        for (class, mark, number) in [
            ("holds", "✓", 1),
            ("fails", "✗", 1),
            ("undecided", "?", 1),
            ("reported", "–", 2),
        ] {
            let items = page.matches(&format!("<li class=\"{class}\">")).count();
            let marks = page.matches(&format!(">{mark}</span>")).count();
            assert_eq!((items, marks), (number, number), "{class}");
        }
        assert!(page.contains("&lt; D&amp;B 0.58 [0.55, 0.61]"), "{page}");
        assert!(page.contains("since 2026-11; before: ≤ 0.5"), "{page}");
        assert!(
            page.contains("difference: -0.170 [-0.210, -0.130]"),
            "{page}"
        );
        let data = std::fs::read_to_string(out.path().join("claims.json")).unwrap();
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        assert_eq!(data[0]["other"]["name"], "D&B");
        assert_eq!(data[0]["p_holm"], 0.004);
        assert_eq!(data[4]["verdict"], "reported");
        assert_eq!(data[4]["holds"], false);
    }

    #[test]
    fn claims_that_cannot_be_read_are_reported_and_the_rest_is_written() {
        let out = sample();
        for text in ["{", "{}", "[1]", "[{\"name\": \"a\"}]"] {
            write_atomic(out.path().join("claims/02_z.json"), text.as_bytes()).unwrap();
            let summary = write(out.path(), &[record("01_x"), record("02_z")]).unwrap();
            assert_eq!((summary.counts.hold, summary.errors.len()), (3, 1));
            let error = summary.errors[0].to_string();
            assert!(
                error.contains("02_z.json") && error.contains("expected an array of claims"),
                "{error}"
            );
            let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
            assert!(page.contains("02_z.json") && page.contains("02_z-curve.png"));
        }
    }

    #[test]
    fn an_earlier_run_s_results_are_removed_and_no_other_notebook_s() {
        let out = sample();
        remove(out.path(), "01_x").unwrap();
        let left = |file: &str| out.path().join(file).exists();
        assert!(!left("01_x.ipynb") && !left("claims/01_x.json") && !left("figures/01_x-grid.svg"));
        assert!(
            left("01_x-y.ipynb")
                && left("figures/01_x-y-other.png")
                && left("figures/02_z-curve.png")
        );
        remove(out.path(), "01_x").unwrap();
    }
}
