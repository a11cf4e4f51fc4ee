//! Writes the results of a run: `claims.json`, `run.json` and the page `index.html`, made from
//! the figures and claims that the notebooks wrote.

use crate::setup::duration;
use invariances::figure::escape;
use invariances::files::write_atomic;
use invariances::{Error, Result, VERSION};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the smallest scale. Training is so short there that a claim says nothing about the
/// method.
const SMOKE: &str = "smoke";
const STYLE: &str = include_str!("gallery.css");

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

fn page(
    records: &[Record],
    claims: &[Claim],
    figures: &[Vec<String>],
    errors: &[Error],
    exists: impl Fn(&str) -> bool,
) -> String {
    let mut h = String::new();
    let hold = claims.iter().filter(|c| c.holds).count();
    let seconds: f64 = records.iter().map(|r| r.seconds).sum();
    let all = |of: fn(&Record) -> String| {
        records
            .iter()
            .map(of)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    };
    // Writing to a string cannot fail.
    let _ = write!(
        h,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>What a network ignores</title>\n<style>\n{STYLE}</style>\n\
         <header>\n<h1>What a network ignores</h1>\n\
         <p class=\"lead\">Notebooks of <i>invariances</i>, executed: each figure with what is claimed about it, and the number that carries the claim.</p>\n\
         <p class=\"facts\"><b>{hold} of {}</b> claims hold · scale <b>{}</b> · seed <b>{}</b> · version <b>{}</b> · {}</p>\n<nav>\n",
        claims.len(),
        escape(&all(|r| r.scale.clone())),
        escape(&all(|r| r.seed.to_string())),
        escape(&all(|r| r.version.clone())),
        duration(Duration::from_secs_f64(seconds.max(0.0))),
    );
    for record in records {
        let of_this = || claims.iter().filter(|c| c.notebook == record.notebook);
        let (number, hold) = (of_this().count(), of_this().filter(|c| c.holds).count());
        let state = match (&record.error, number) {
            (Some(_), _) => "<span class=\"failed\">failed</span>".to_owned(),
            (None, 0) => String::new(),
            (None, _) if record.scale == SMOKE => format!("{number} claims, at smoke"),
            (None, _) => format!("{hold} of {number} claims hold"),
        };
        let _ = writeln!(
            h,
            "<a href=\"#{}\"><span>{}</span><span class=\"grow\">{}</span><small>{state}</small></a>",
            link(&record.notebook),
            escape(record.notebook.split('_').next().unwrap_or("")),
            escape(&record.title),
        );
    }
    h.push_str("</nav>\n</header>\n<main>\n");
    for error in errors {
        let _ = writeln!(h, "<pre>{}</pre>", escape(&error.to_string()));
    }
    for (record, figures) in records.iter().zip(figures) {
        section(&mut h, record, claims, figures, &exists);
    }
    let _ = write!(
        h,
        "</main>\n<footer>After Rombach, Esser, Ommer, <a href=\"https://arxiv.org/abs/2008.01777\">Making Sense of CNNs: Interpreting Deep Representations &amp; Their Invariances with INNs</a>, ECCV 2020. \
         Made by invariances {}. The claims as data: <a href=\"claims.json\">claims.json</a>.</footer>\n</html>\n",
        escape(VERSION),
    );
    h
}

fn section(
    h: &mut String,
    record: &Record,
    claims: &[Claim],
    figures: &[String],
    exists: &impl Fn(&str) -> bool,
) {
    let name = &record.notebook;
    let file = format!("{name}.ipynb");
    let _ = write!(
        h,
        "<section id=\"{}\">\n<h2>{}</h2>\n<p class=\"facts\">",
        escape(name),
        escape(&record.title)
    );
    if exists(&file) {
        let _ = write!(h, "<a href=\"{}\">{}</a> · ", link(&file), escape(&file));
    }
    let _ = writeln!(
        h,
        "{} of {} cells · {} · scale {} · seed {} · version {}</p>",
        record.ran,
        record.cells,
        duration(Duration::from_secs_f64(record.seconds.max(0.0))),
        escape(&record.scale),
        record.seed,
        escape(&record.version)
    );
    if let Some(error) = &record.error {
        let _ = writeln!(h, "<pre>{}</pre>", escape(error));
    }
    // A claim gives the name of its figure with or without the name of the notebook as prefix.
    let figure_of = |claim: &Claim| {
        let stem = claim.figure.as_ref()?;
        let long = format!("{name}-{stem}");
        [stem.clone(), long]
            .into_iter()
            .find(|s| figures.contains(s))
    };
    let of_this: Vec<&Claim> = claims.iter().filter(|c| c.notebook == *name).collect();
    for stem in figures {
        let beside: Vec<&Claim> = of_this
            .iter()
            .copied()
            .filter(|c| figure_of(c).as_ref() == Some(stem))
            .collect();
        let caption = stem
            .strip_prefix(&format!("{name}-"))
            .unwrap_or(stem)
            .replace(['-', '_'], " ");
        let files: Vec<(&str, String)> = ["png", "svg", "pdf", "csv", "html"]
            .into_iter()
            .map(|kind| (kind, format!("figures/{stem}.{kind}")))
            .filter(|(_, file)| exists(file))
            .collect();
        let shown = files
            .iter()
            .find(|(kind, _)| ["png", "svg"].contains(kind))
            .map(|(_, file)| link(file));
        h.push_str("<article>\n<figure>");
        let moved = files.iter().find(|(kind, _)| *kind == "html");
        if let Some((_, page)) = moved {
            // An interactive figure is shown in its own frame.
            let _ = write!(
                h,
                "<iframe src=\"{}\" title=\"{}\" loading=\"lazy\" style=\"width:100%;height:460px;border:0\"></iframe>",
                link(page),
                escape(&caption)
            );
        } else if let Some(shown) = shown {
            // A film (a PNG without other formats) has few pixels per image, so it is shown
            // enlarged.
            let film = match &files[..] {
                [("png", _)] => " class=\"film\"",
                _ => "",
            };
            let _ = write!(
                h,
                "<a href=\"{shown}\"><img{film} src=\"{shown}\" alt=\"{}\" loading=\"lazy\"></a>",
                escape(&caption)
            );
        }
        let links: Vec<String> = files
            .iter()
            .map(|(kind, file)| format!("<a href=\"{}\">{}</a>", link(file), kind.to_uppercase()))
            .collect();
        let _ = writeln!(
            h,
            "<figcaption>{} · {}</figcaption></figure>",
            escape(&caption),
            links.join(" · ")
        );
        list(h, &beside);
        h.push_str("</article>\n");
    }
    let others: Vec<&Claim> = of_this
        .iter()
        .copied()
        .filter(|c| figure_of(c).is_none())
        .collect();
    if !others.is_empty() {
        h.push_str("<article>\n");
        list(h, &others);
        h.push_str("</article>\n");
    }
    h.push_str("</section>\n");
}

fn list(h: &mut String, claims: &[&Claim]) {
    if claims.is_empty() {
        return;
    }
    h.push_str("<ul class=\"claims\">\n");
    for claim in claims {
        let (class, mark, word) = if claim.scale == SMOKE {
            ("smoke", "·", "not meaningful at the scale smoke")
        } else if claim.holds {
            ("holds", "✓", "holds")
        } else {
            ("fails", "✗", "does not hold")
        };
        let _ = write!(
            h,
            "<li class=\"{class}\"><span class=\"mark\" title=\"{word}\" aria-label=\"{word}\">{mark}</span>{} <span class=\"number\">{}",
            escape(&claim.statement),
            claim.value.map_or("no number".into(), number)
        );
        let unit = escape(&claim.unit);
        if !unit.is_empty() {
            let _ = write!(h, " <small>{unit}</small>");
        }
        if let (Some(low), Some(high)) = (claim.low, claim.high) {
            let like = claim.value.unwrap_or(low);
            let _ = write!(
                h,
                " <small>[{}, {}]</small>",
                written(low, like),
                written(high, like)
            );
        }
        h.push_str("</span>");
        if !claim.expected.is_empty() {
            let _ = write!(
                h,
                " <span class=\"expected\">expected: {}</span>",
                escape(&claim.expected)
            );
        }
        if claim.scale == SMOKE {
            let _ = write!(h, " <span class=\"expected\">({word})</span>");
        }
        h.push_str("</li>\n");
    }
    h.push_str("</ul>\n");
}

/// Formats a number with three or four significant digits.
fn number(x: f64) -> String {
    written(x, x)
}

/// Formats `x` with the number of decimals that suits `like`, so that the ends of an interval
/// look like the value between them.
fn written(x: f64, like: f64) -> String {
    let size = like.abs();
    if like == 0.0 || ((1000.0..1e7).contains(&size) && like.fract() == 0.0) {
        if x.fract() == 0.0 {
            format!("{x:.0}")
        } else {
            format!("{x:.3}")
        }
    } else if !(1e-3..1e5).contains(&size) {
        format!("{x:.2e}")
    } else if size >= 100.0 {
        format!("{x:.0}")
    } else if size >= 10.0 {
        format!("{x:.1}")
    } else if size >= 1.0 {
        format!("{x:.2}")
    } else {
        format!("{x:.3}")
    }
}

/// Returns a relative path as a URL.
fn link(path: &str) -> PercentEncode<'_> {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'/')
        .remove(b'~');
    utf8_percent_encode(path, KEPT)
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

    #[test]
    fn numbers_keep_the_digits_that_matter() {
        for (x, text) in [
            (0.96234, "0.962"),
            (-0.0421, "-0.042"),
            (7.3456, "7.35"),
            (28.71, "28.7"),
            (1024.0, "1024"),
            (123.4, "123"),
            (0.0, "0"),
            (2e-5, "2.00e-5"),
            (3.2e7, "3.20e7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(x), text);
        }
    }
}
