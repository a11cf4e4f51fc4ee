//! The library that every cell of the kernel is linked with. It prints notices, and it reports
//! panics and errors among the results of the cell.
//!
//! evcxr sends the message of a panic, or of an error behind `?`, through another pipe than the
//! end of the cell. So the message can arrive too late, and evcxr counts the cell as a success.
//! This library writes it as a result of the cell, under its own MIME type, which programs can
//! look for. `compile.rs` compiles this file once.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static RUNNING: AtomicBool = AtomicBool::new(false);
static LAST: Mutex<String> = Mutex::new(String::new());

/// Called when a cell is loaded. `new_process` is the message for the first cell of a process.
pub fn loaded(notice: &str, new_process: &str, source: &'static str, full: bool) {
    if !RUNNING.swap(true, Ordering::Relaxed) {
        if !full {
            // evcxr requests a backtrace for every panic; about sixty of its frames are not the
            // user's.
            // SAFETY: `set_var` requires that no other thread reads the environment at the same
            // time. The first cell of a process is loaded before any code could start a thread.
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
            // A line number in evcxr's generated source would not help the user, so the text of
            // the line is shown.
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
        // A panic on the cell's own thread is reported when the cell ends; one on another thread
        // could be missed.
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

/// Writes a panic or an error as a result of the cell.
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
