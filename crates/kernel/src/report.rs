//! Errors of cells as Jupyter's messages.

use crate::output::Seen;
use crate::shim::answers::objects;
use ariadne::{Color, Label, Report, ReportKind, sources};
use evcxr::{CompilationError, Theme};
use serde_json::{Value, json};
use std::path::Path;

/// An error of a cell.
#[derive(Debug, PartialEq)]
pub struct CellError {
    /// A name for programs, for example `E0599` or `Interrupted`.
    pub name: String,
    /// What happened, in one sentence or a few.
    pub value: String,
    /// Lines for the user.
    pub traceback: Vec<String>,
}

impl CellError {
    pub fn new(name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self {
            name: name.into(),
            traceback: value.lines().map(String::from).collect(),
            value,
        }
    }

    /// The content of the message `error`, which the reply has too.
    pub fn content(&self) -> Value {
        json!({ "ename": self.name, "evalue": self.value, "traceback": self.traceback })
    }

    /// All errors of the compiler, as one.
    pub fn of_compiler(errors: &[CompilationError], source: &str, count: u64) -> Self {
        let name = errors
            .iter()
            .find_map(CompilationError::code)
            .unwrap_or("CompileError")
            .to_owned();
        let mut values: Vec<String> = Vec::new();
        let mut traceback = Vec::new();
        for error in errors {
            let message = message_of(error);
            if !values.contains(&message) {
                values.push(message);
            }
            traceback.extend(lines_of(error, source, count));
        }
        Self {
            name,
            value: values.join("\n"),
            traceback,
        }
    }

    /// The end of the process, with what evcxr says about it: the text of an `ExitStatus`.
    pub fn of_process(said: &str, seen: &Seen, source: &str, cell: &Path, lost: bool) -> Self {
        let status = said
            .rsplit_once("terminated with status: ")
            .map_or(said, |(_, status)| status)
            .trim();
        let what = match status {
            s if s.contains("(SIGSEGV)") => "Segmentation fault (SIGSEGV)".into(),
            s if s.contains("(SIGABRT)") => "Aborted (SIGABRT)".into(),
            s if s.contains("(SIGKILL)") => {
                "Killed (SIGKILL): by the system, if memory ran out, or by another process".into()
            }
            s if s.starts_with("exit") => format!("The cell ended its process ({s})"),
            s => format!("The process was ended ({s})"),
        };
        let line = seen
            .crash
            .as_ref()
            .and_then(|(library, base, addresses)| {
                user_line(library, *base, addresses, source, cell)
            })
            .map(|line| format!("  in: {line}"));
        let left = match lost {
            true => "The variables of earlier cells are lost; the next cell runs in a new process.",
            false => "The next cell runs in a new process.",
        };
        Self {
            name: "ProcessEnded".into(),
            value: what.clone(),
            traceback: [Some(what), line, Some(left.into())]
                .into_iter()
                .flatten()
                .collect(),
        }
    }
}

/// Returns the message. One about generated code is about a variable whose type was inferred wrongly.
fn message_of(error: &CompilationError) -> String {
    let message = error.message();
    if error.is_from_user_code() {
        return message;
    }
    let lines = objects(&error.json["spans"]).flat_map(|span| objects(&span["text"]));
    let variable = lines
        .filter_map(|line| crate::shim::stored_variable(line["text"].as_str()?))
        .next();
    match variable {
        Some((name, kind)) => format!(
            "{message}. The type of the variable `{name}` was inferred as `{kind}`, which does not compile here: write it down, `let {name}: … = …`, or keep the variable within braces"
        ),
        None => message,
    }
}

fn lines_of(error: &CompilationError, source: &str, count: u64) -> Vec<String> {
    let file = format!("cell {count}");
    let report = match error.is_from_user_code() {
        true => error
            .build_report(file.clone(), source.to_owned(), Theme::Light)
            .or_else(|| report_of_any_text(error, &file, source)),
        false => None,
    };
    let mut text = Vec::new();
    if let Some(report) = report
        && report
            .write(sources([(file, source.to_owned())]), &mut text)
            .is_ok()
    {
        let text = String::from_utf8_lossy(&text);
        return text.trim_end().lines().map(String::from).collect();
    }
    let help = error.help().into_iter().map(|help| format!("help: {help}"));
    std::iter::once(format!("\u{1b}[31merror: {}\u{1b}[0m", message_of(error)))
        .chain(help)
        .flat_map(|text| text.lines().map(String::from).collect::<Vec<_>>())
        .collect()
}

/// Makes the report that evcxr makes for ASCII only.
fn report_of_any_text<'a>(
    error: &CompilationError,
    file: &str,
    source: &str,
) -> Option<Report<'a, (String, std::ops::Range<usize>)>> {
    let position = |line: usize, column: usize| {
        let before: usize = source
            .lines()
            .take(line.saturating_sub(1))
            .map(|l| l.chars().count() + 1)
            .sum();
        before + column.saturating_sub(1)
    };
    let length = source.chars().count();
    let mut report = Report::build(ReportKind::Error, (file.to_owned(), 0..length))
        .with_message(error.message());
    if let Some(code) = error.code() {
        report = report.with_code(code.to_owned());
    }
    let mut labels = 0;
    let spans = error.spanned_messages().iter().chain(error.help_spanned());
    for message in spans.filter(|m| !m.label.is_empty()) {
        match message.span {
            Some(span) => {
                let start = position(span.start_line, span.start_column);
                let end = position(span.end_line, span.end_column).max(start);
                let place = (file.to_owned(), start.min(length)..end.min(length));
                labels += 1;
                let color = [Color::Red, Color::Blue, Color::Magenta][labels % 3];
                report = report.with_label(
                    Label::new(place)
                        .with_message(message.label.clone())
                        .with_color(color),
                );
            }
            None => report.set_note(message.label.clone()),
        }
    }
    (labels > 0).then(|| report.finish())
}

/// Returns the innermost line of the cell that the process was in. `cell` is the file with the
/// source that was compiled.
fn user_line(
    library: &str,
    base: u64,
    addresses: &[u64],
    source: &str,
    cell: &Path,
) -> Option<String> {
    let loader = addr2line::Loader::new(library).ok()?;
    let compiled = std::fs::read_to_string(cell).ok()?;
    let compiled: Vec<&str> = compiled.lines().map(str::trim).collect();
    let size = std::fs::metadata(library).ok()?.len();
    for (i, address) in addresses.iter().enumerate() {
        // All but the first are return addresses: behind the call.
        let offset = address
            .checked_sub(base)
            .filter(|offset| *offset < 16 * size)
            .and_then(|offset| offset.checked_sub(u64::from(i > 0)));
        let Some(mut frames) = offset.and_then(|offset| loader.find_frames(offset).ok()) else {
            continue;
        };
        while let Ok(Some(frame)) = frames.next() {
            let Some(location) = frame.location else {
                continue;
            };
            let line = location
                .file
                .filter(|file| file.ends_with("src/lib.rs"))
                .and(location.line)
                .and_then(|line| compiled.get(line as usize - 1));
            if let Some(line) = line
                && line.len() > 1
                && source.lines().any(|l| l.trim() == *line)
            {
                return Some((*line).to_owned());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::CellError;
    use crate::output::Seen;
    use std::path::Path;

    #[test]
    fn the_end_of_a_process_is_told_in_one_sentence() {
        let of = |said: &str, lost| {
            CellError::of_process(said, &Seen::default(), "", Path::new("none"), lost)
        };
        let error = of(
            "Subprocess terminated with status: signal: 11 (SIGSEGV) (core dumped)",
            true,
        );
        assert_eq!(error.value, "Segmentation fault (SIGSEGV)");
        assert!(error.traceback[1].contains("variables of earlier cells are lost"));
        let error = of(
            "text\nSubprocess terminated with status: exit status: 3",
            false,
        );
        assert_eq!(error.value, "The cell ended its process (exit status: 3)");
        assert!(!error.traceback[1].contains("lost"));
        assert!(of("signal: 9 (SIGKILL)", true).value.starts_with("Killed"));
        assert_eq!(of("other", true).value, "The process was ended (other)");
    }
}
