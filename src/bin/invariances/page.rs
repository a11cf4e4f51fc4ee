//! The page `index.html` of a run: each figure with its claims.

use crate::gallery::{Claim, Record};
use crate::setup::duration;
use invariances::figure::escape;
use invariances::notebook::{Counts, Verdict, with_history};
use invariances::{Error, VERSION};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// The name of the smallest scale. Training is so short there that a claim says nothing about the
/// method.
pub const SMOKE: &str = "smoke";
const STYLE: &str = include_str!("gallery.css");

/// Returns the page as HTML. `figures` holds the names of each record's figures, `errors` what
/// could not be read, and `exists` whether a file is there.
pub fn page(
    records: &[Record],
    claims: &[Claim],
    figures: &[Vec<String>],
    errors: &[Error],
    exists: impl Fn(&str) -> bool,
) -> String {
    let mut h = String::new();
    let counts: Counts = claims.iter().map(Claim::verdict).collect();
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
         <p class=\"facts\">claims: <b>{counts}</b> · scale <b>{}</b> · seed <b>{}</b> · version <b>{}</b> · {}</p>\n<nav>\n",
        escape(&all(|r| r.scale.clone())),
        escape(&all(|r| r.seed.to_string())),
        escape(&all(|r| r.version.clone())),
        duration(Duration::from_secs_f64(seconds.max(0.0))),
    );
    for record in records {
        let of_this = || claims.iter().filter(|c| c.notebook == record.notebook);
        let counts: Counts = of_this().map(Claim::verdict).collect();
        let number = of_this().count();
        let state = match (&record.error, number) {
            (Some(_), _) => "<span class=\"failed\">failed</span>".to_owned(),
            (None, 0) => String::new(),
            (None, _) if record.scale == SMOKE => format!("{number} claims, at smoke"),
            (None, _) => counts.to_string(),
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
         Verdicts at a level of 5 %, by the interval of a difference; corrected by Holm's method where a notebook ends with the table of its claims. \
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
        let verdict = claim.verdict();
        let class = verdict.word();
        let (mark, word) = match verdict {
            Verdict::Smoke => ("·", "not meaningful at the scale smoke"),
            Verdict::Reported => (verdict.mark(), "only reported"),
            _ => (verdict.mark(), class),
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
        if let Some(interval) = interval(claim.value, claim.low, claim.high) {
            let _ = write!(h, " <small>{interval}</small>");
        }
        h.push_str("</span>");
        if !claim.expected.is_empty() {
            let expected = with_history(&claim.expected, claim.history.as_deref());
            let _ = write!(
                h,
                " <span class=\"expected\">expected: {}</span>",
                escape(&expected)
            );
        }
        if let Some(difference) = &claim.difference
            && let Some(value) = difference.value
        {
            let _ = write!(h, " <span class=\"expected\">difference: {}", number(value));
            let ends = interval(difference.value, difference.low, difference.high);
            let _ = write!(
                h,
                "{}</span>",
                ends.map_or(String::new(), |e| format!(" {e}"))
            );
        }
        if verdict == Verdict::Smoke {
            let _ = write!(h, " <span class=\"expected\">({word})</span>");
        }
        h.push_str("</li>\n");
    }
    h.push_str("</ul>\n");
}

/// Formats an interval, with the number of decimals that suits its value.
fn interval(value: Option<f64>, low: Option<f64>, high: Option<f64>) -> Option<String> {
    let (low, high) = low.zip(high)?;
    let like = value.unwrap_or(low);
    Some(format!("[{}, {}]", written(low, like), written(high, like)))
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
    use super::number;

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
