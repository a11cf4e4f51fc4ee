//! What every cell of the kernel is linked with: notices, and panics and errors among the cell's results.
//!
//! evcxr sends the message of a panic, or of an error behind `?`, through another pipe than the
//! end of the cell, so that it can come too late, and calls the cell a success. Here it is among the
//! results, under a type of its own that programs can look for. `shim/mod.rs` compiles this once.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static RUNNING: AtomicBool = AtomicBool::new(false);
static LAST: Mutex<String> = Mutex::new(String::new());

/// Called when a cell is loaded: `new_process` is what to say in the first cell of a process.
pub fn loaded(notice: &str, new_process: &str, source: &'static str, full: bool) {
    if !RUNNING.swap(true, Ordering::Relaxed) {
        if !full {
            // evcxr asks for a backtrace with every panic; some sixty frames of it are not the user's.
            // SAFETY: the first cell of a process is loaded before anything could start a thread.
            unsafe { std::env::set_var("RUST_BACKTRACE", "0") };
        }
        remember_panics(source, full);
        say(new_process);
    }
    say(notice);
}

fn say(text: &str) {
    if !text.is_empty() {
        println!("{text}");
    }
}

fn remember_panics(source: &'static str, full: bool) {
    let usual = std::panic::take_hook();
    let cell = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        let mut text = String::from("panicked: ");
        text += info
            .payload_as_str()
            .unwrap_or("with a value that is not text");
        if let Some(place) = info.location() {
            // The number of a line of evcxr's would tell nothing.
            let cell = match place.file() {
                "src/lib.rs" => std::fs::read_to_string(source).unwrap_or_default(),
                _ => String::new(),
            };
            text += &match cell.lines().nth(place.line().saturating_sub(1) as usize) {
                Some(line) => format!("\n  in: {}", line.trim()),
                None => format!("\n  at: {place}"),
            };
        }
        if let Ok(mut last) = LAST.lock() {
            *last = text;
        }
        // The cell's own thread is reported when the cell ends; another one may go unnoticed.
        if full || std::thread::current().id() != cell {
            usual(info);
        }
    }));
}

/// Called when a cell has panicked, after its values were dropped.
pub fn panicked() {
    let text = LAST.lock().map(|text| text.clone()).unwrap_or_default();
    report("panic", &text);
}

/// Puts a panic or an error among the results of the cell.
pub fn report(kind: &str, text: &str) {
    let page = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let page = format!(
        "<div class=\"jp-RenderedText\" data-mime-type=\"application/vnd.jupyter.stderr\"><pre>{page}</pre></div>"
    );
    let mut out = std::io::stdout().lock();
    for (form, content) in [
        ("application/vnd.invariances.error", kind),
        ("text/plain", text),
        ("text/html", &page),
    ] {
        let _ = writeln!(
            out,
            "EVCXR_BEGIN_CONTENT {form}\n{content}\nEVCXR_END_CONTENT"
        );
    }
}
