//! Writes the results of a run: `claims.json`, `run.json` and the page `index.html`, made from
//! the figures and claims that the notebooks wrote.
//!
//! `page.rs` writes the page; this file reads and writes the rest.

use crate::page::page;
use invariances::files::write_atomic;
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
    pub holds: bool,
    #[serde(default)]
    pub scale: String,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub version: String,
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
    pub number: usize,
    pub hold: usize,
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
        match read_claims(out, &record.notebook) {
            Ok(of_this) => claims.extend(of_this),
            Err(error) => errors.push(error),
        }
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
    let hold = claims.iter().filter(|c| c.holds).count();
    Ok(Summary {
        number: claims.len(),
        hold,
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
    use crate::page::SMOKE;

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
        assert_eq!(
            (summary.number, summary.hold, summary.errors.len()),
            (3, 3, 0)
        );
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
        assert_eq!(read_records(out.path()).unwrap().len(), 1);
    }

    #[test]
    fn claims_that_cannot_be_read_are_reported_and_the_rest_is_written() {
        let out = sample();
        for text in ["{", "{}", "[1]", "[{\"name\": \"a\"}]"] {
            write_atomic(out.path().join("claims/02_z.json"), text.as_bytes()).unwrap();
            let summary = write(out.path(), &[record("01_x"), record("02_z")]).unwrap();
            assert_eq!((summary.number, summary.errors.len()), (3, 1));
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
