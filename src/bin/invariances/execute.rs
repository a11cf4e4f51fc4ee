//! Executes one notebook with nbclient in the project's Python and shows the progress on the
//! terminal.

use crate::interrupt;
use crate::setup::{KERNEL, Ready, duration};
use anstream::adapter::strip_str;
use invariances::files::write_atomic;
use invariances::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const PROGRAM: &str = include_str!("execute.py");
/// Size limit for a warning, in bytes: larger notebooks are slow to open, and code hosts do not
/// show them.
const LARGE: usize = 1 << 20;

/// The events of `execute.py`, one JSON object per line.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Broken {
        message: String,
    },
    Start {
        cells: usize,
    },
    Kernel {
        seconds: f64,
    },
    NoKernel {
        message: String,
    },
    Cell {
        number: usize,
        line: String,
    },
    Output {
        text: String,
    },
    Display {
        types: Vec<String>,
    },
    /// A state of a progress bar; the last one has `ended`.
    Progress {
        id: String,
        text: String,
        ended: bool,
    },
    Done {
        seconds: f64,
    },
    Failed {
        number: usize,
        line_number: usize,
        line: String,
        message: String,
    },
    Notebook {
        content: String,
    },
}

enum Heard {
    Event(Event),
    /// A line of the kernel's standard error.
    Said(String),
    /// A line of the script that is not an event, because something went wrong.
    Noise(String),
}

/// The result of an execution.
pub struct Outcome {
    /// Number of code cells in the notebook, and how many of them ran.
    pub cells: usize,
    pub ran: usize,
    pub seconds: f64,
    pub error: Option<String>,
    pub interrupted: bool,
}

/// Executes `notebook` with the environment variables `settings` and writes the executed notebook
/// to `target`. It is written completely, also if a cell failed. After an interrupt nothing is
/// written.
///
/// # Errors
/// If Python cannot be started or the executed notebook cannot be written. A cell that fails is
/// not an error here; it is reported in the [`Outcome`].
pub fn execute(
    ready: &Ready,
    notebook: &Path,
    target: &Path,
    settings: &[(&str, OsString)],
) -> Result<Outcome> {
    let began = Instant::now();
    let folder = notebook.parent().unwrap_or(Path::new("."));
    let mut command = ready.python();
    command
        .args(["-c", PROGRAM])
        .arg(notebook)
        .arg(KERNEL)
        .current_dir(folder)
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C must reach this process only. It then closes the script's standard input, and
        // the script stops the kernel.
        .process_group(0);
    let mut child = command.spawn().map_err(|e| Error::io(&ready.python, e))?;
    let mut lifeline = child.stdin.take();
    let (hear, heard) = channel();
    if let Some(stdout) = child.stdout.take() {
        let hear = hear.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let item = match serde_json::from_str(&line) {
                    Ok(event) => Heard::Event(event),
                    Err(_) => Heard::Noise(line),
                };
                if hear.send(item).is_err() {
                    break;
                }
            }
        });
    }
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if hear.send(Heard::Said(line)).is_err() {
                    break;
                }
            }
        });
    }

    let mut page = Page {
        in_place: std::io::stdout().is_terminal(),
        ..Page::default()
    };
    let mut outcome = Outcome {
        cells: 0,
        ran: 0,
        seconds: 0.0,
        error: None,
        interrupted: false,
    };
    let mut content = None;
    let mut said: Vec<String> = Vec::new();
    let mut deadline = None;
    loop {
        if interrupt::asked() && lifeline.take().is_some() {
            outcome.interrupted = true;
            deadline = Some(Instant::now() + Duration::from_secs(15));
        }
        if deadline.is_some_and(|d| Instant::now() > d) {
            let _ = child.kill();
        }
        match heard.recv_timeout(Duration::from_millis(200)) {
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // A process that the kernel left behind may keep standard error open
                // indefinitely.
                if let Ok(Some(_)) = child.try_wait()
                    && heard.recv_timeout(Duration::from_millis(200)).is_err()
                {
                    break;
                }
            }
            Ok(Heard::Said(line)) | Ok(Heard::Noise(line)) => {
                // Python's messages about our own interrupt are not useful to the user.
                if !outcome.interrupted && !is_chatter(&line) {
                    page.line(&line);
                    said.push(line);
                }
            }
            Ok(Heard::Event(event)) => match event {
                Event::Start { cells } => {
                    outcome.cells = cells;
                    page.cells = cells;
                }
                Event::Kernel { seconds } => {
                    page.line(&format!("kernel ready ({})", time(seconds)))
                }
                Event::Cell { number, line } => page.cell(number, &line),
                Event::Output { text } => page.output(&text),
                Event::Display { types } => page.display(&types),
                Event::Progress { id, text, ended } => page.progress(id, text, ended),
                Event::Done { seconds } => page.done(seconds, &mut outcome.ran),
                Event::Failed {
                    number,
                    line_number,
                    line,
                    message,
                } => {
                    // The event `done` was already counted: nbclient counts a cell as executed
                    // before it checks the reply.
                    outcome.ran = number.saturating_sub(1);
                    let cells = outcome.cells;
                    page.failed(
                        &format!("cell {number} of {cells} failed, line {line_number}: {line}"),
                        &message,
                    );
                    outcome.error = Some(format!(
                        "cell {number} of {cells}, line {line_number}: {line}\n{}",
                        strip_str(&message).to_string().trim()
                    ));
                }
                Event::NoKernel { message } => {
                    let message =
                        format!("the kernel did not start: {message}\n{}", said.join("\n"));
                    page.failed("no kernel", &message);
                    outcome.error = Some(message);
                }
                Event::Broken { message } => {
                    outcome.error = Some(format!(
                        "{}: {message}; its environment is not whole, remove {} and run again",
                        ready.python.display(),
                        ready
                            .python
                            .parent()
                            .and_then(Path::parent)
                            .unwrap_or(&ready.python)
                            .display()
                    ));
                }
                Event::Notebook { content: text } => content = Some(text),
            },
        }
    }
    let status = child.wait().map_err(|e| Error::io(&ready.python, e))?;
    outcome.seconds = began.elapsed().as_secs_f64();
    page.end();
    if outcome.interrupted {
        return Ok(outcome);
    }
    match content {
        Some(text) => {
            if text.len() > LARGE {
                println!(
                    "  warning: {} has {:.1} MiB; keep an executed notebook under 1 MiB, with smaller figures",
                    target.display(),
                    text.len() as f64 / LARGE as f64
                );
            }
            write_atomic(target, text.as_bytes())?;
        }
        None if outcome.error.is_none() => {
            outcome.error = Some(format!(
                "the program that executes notebooks ended ({status}):\n{}",
                said.join("\n")
            ));
        }
        None => {}
    }
    if outcome.error.is_none() && outcome.ran < outcome.cells {
        outcome.error = Some(format!(
            "only {} of {} cells ran",
            outcome.ran, outcome.cells
        ));
    }
    Ok(outcome)
}

/// Whether a line is a message of Python's libraries that does not concern the user.
fn is_chatter(line: &str) -> bool {
    line == "No configuration file found, use the default configuration"
        || line.contains("frozen_modules")
        || line.contains("PYDEVD_DISABLE_FILE_VALIDATION")
        || line.contains("Debugger warning")
}

/// Progress on the terminal: one line per cell, followed by the output of the cell.
#[derive(Default)]
struct Page {
    cells: usize,
    /// Whether the line of the current cell has no line end yet.
    open: bool,
    /// The part of the current cell's output that has no line end yet.
    rest: String,
    shows: Vec<&'static str>,
    in_cell: bool,
    /// Whether progress bars move in place; otherwise their states are lines from time to time.
    in_place: bool,
    /// The progress bars of the current cell that have not ended, by their identifiers.
    bars: BTreeMap<String, Bar>,
    /// Whether a bar is on the last line, which has no line end.
    drawn: bool,
}

/// A progress bar that has not ended.
struct Bar {
    text: String,
    began: Instant,
    /// The time since `began` from which a line is due.
    next: Duration,
    /// Whether `text` was printed as a line.
    printed: bool,
}

impl Bar {
    /// Whether a line is due, at its beginning and after 2, 5, 10, 20, 30 … seconds.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        self.printed = elapsed >= self.next;
        if self.printed {
            self.next = match elapsed.as_secs() {
                0..2 => Duration::from_secs(2),
                2..5 => Duration::from_secs(5),
                s => Duration::from_secs((s / 10 + 1) * 10),
            };
        }
        self.printed
    }
}

impl Page {
    /// Ends the last line, so that a new one can be printed.
    fn close(&mut self) {
        if std::mem::take(&mut self.drawn) {
            // The bar is drawn again when it moves.
            print!("\r\x1b[K");
        }
        if std::mem::take(&mut self.open) {
            println!();
        }
    }

    fn line(&mut self, text: &str) {
        self.close();
        println!("          {text}");
    }

    fn cell(&mut self, number: usize, line: &str) {
        self.end();
        let width = self.cells.to_string().len();
        let short: String = line.chars().take(72).collect();
        let more = if short.len() < line.len() { "…" } else { "" };
        print!("  [{number:>width$}/{}] {short}{more}", self.cells);
        let _ = std::io::stdout().flush();
        self.open = true;
        self.in_cell = true;
    }

    fn output(&mut self, text: &str) {
        self.rest.push_str(text);
        while let Some(at) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=at).collect();
            self.printed(&line);
        }
    }

    fn printed(&mut self, line: &str) {
        // If the line overwrites itself with carriage returns, only its last state is printed.
        let line = line.trim_end().rsplit('\r').next().unwrap_or("");
        if !line.is_empty() {
            self.close();
            println!("        │ {line}");
        }
    }

    fn progress(&mut self, id: String, text: String, ended: bool) {
        if ended {
            self.bars.remove(&id);
            self.printed(&text);
            return;
        }
        let now = Instant::now();
        let bar = self.bars.entry(id).or_insert_with(|| Bar {
            text: String::new(),
            began: now,
            next: Duration::ZERO,
            printed: false,
        });
        bar.text.clone_from(&text);
        if self.in_place {
            self.close();
            // A longer line would be wrapped, and only a part of it erased.
            let short: String = text.chars().take(68).collect();
            print!("        │ {short}");
            let _ = std::io::stdout().flush();
            self.drawn = true;
        } else if bar.is_due(now - bar.began) {
            self.printed(&text);
        }
    }

    /// Prints the last state of bars that did not end, for example because their cell failed.
    fn end_bars(&mut self) {
        for bar in std::mem::take(&mut self.bars).into_values() {
            if !bar.printed {
                self.printed(&bar.text);
            }
        }
        if self.drawn {
            self.close();
        }
    }

    fn display(&mut self, types: &[String]) {
        for (mime, name) in [
            ("image/png", "figure"),
            ("image/jpeg", "figure"),
            ("image/svg+xml", "figure"),
            ("text/html", "rich output"),
        ] {
            if types.iter().any(|t| t == mime) {
                self.shows.push(name);
                break;
            }
        }
    }

    fn done(&mut self, seconds: f64, ran: &mut usize) {
        let rest = std::mem::take(&mut self.rest);
        self.printed(&rest);
        self.end_bars();
        let shows = std::mem::take(&mut self.shows);
        let shows = shows
            .first()
            .map_or(String::new(), |name| format!(", {name}"));
        let text = format!("({}{shows})", time(seconds));
        if std::mem::take(&mut self.open) {
            println!("  {text}");
        } else {
            println!("          {text}");
        }
        self.in_cell = false;
        *ran += 1;
    }

    fn failed(&mut self, head: &str, message: &str) {
        self.end();
        let colour = std::io::stdout().is_terminal();
        let message = if colour {
            message.to_owned()
        } else {
            strip_str(message).to_string()
        };
        println!("  ✗ {head}");
        for line in message.trim().lines() {
            println!("    {line}");
        }
    }

    fn end(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        if self.in_cell {
            self.printed(&rest);
            self.end_bars();
        }
        self.close();
    }
}

fn time(seconds: f64) -> String {
    duration(Duration::from_secs_f64(seconds.max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_gives_few_lines_where_it_cannot_move() {
        let mut bar = Bar {
            text: String::new(),
            began: Instant::now(),
            next: Duration::ZERO,
            printed: false,
        };
        let mut due = Vec::new();
        for quarter in 0..140 {
            if bar.is_due(Duration::from_millis(250 * quarter)) {
                due.push(quarter / 4);
            }
        }
        assert_eq!(due, [0, 2, 5, 10, 20, 30]);
        assert!(!bar.printed, "the last state was not printed");
    }
}
