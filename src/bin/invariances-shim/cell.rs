//! What every cell of the kernel is linked with: notices, and panics and errors among the cell's results.
//!
//! evcxr sends the message of a panic, or of an error behind `?`, through another pipe than the
//! end of the cell, so that it can come too late, and calls the cell a success. Here it is among the
//! results, under a type of its own that programs can look for. `invariances-shim` compiles this once.

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

/// The variables of the cells: evcxr 0.22's own store, which it writes into the source of every cell, compiled once
/// here. It spares each cell half of its code.
pub mod store {
    use std::any::{Any, TypeId};
    use std::collections::HashMap;
    use std::sync::Arc;

    pub const VARIABLE_CHANGED_TYPE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
    pub const USER_ERROR_OCCURRED: &str = "EVCXR_ERROR_OCCURRED";

    pub struct VariableStore {
        variables: HashMap<String, Box<dyn Any>>,
    }

    pub fn create_variable_store() -> *mut VariableStore {
        Box::into_raw(Box::new(VariableStore {
            variables: HashMap::new(),
        }))
    }

    impl VariableStore {
        pub fn put_variable<T: 'static>(&mut self, name: &str, value: T) {
            self.put(name, Box::new(value));
        }

        pub fn check_variable<T: 'static>(&mut self, name: &str) -> bool {
            self.check(name, TypeId::of::<T>())
        }

        pub fn take_variable<T: 'static>(&mut self, name: &str) -> T {
            match self.take(name).downcast() {
                Ok(value) => *value,
                Err(_) => panic!("Variable changed type"),
            }
        }

        pub fn lazy_arc<T: 'static, F: FnOnce() -> T>(&mut self, name: &str, create: F) -> Arc<T> {
            let value = self
                .variables
                .entry(name.to_owned())
                .or_insert_with(|| Box::new(Arc::new(create())));
            match value.downcast_ref::<Arc<T>>() {
                Some(value) => Arc::clone(value),
                None => panic!("lazy_arc {name} changed type"),
            }
        }

        fn put(&mut self, name: &str, value: Box<dyn Any>) {
            self.variables.insert(name.to_owned(), value);
        }

        fn check(&self, name: &str, wanted: TypeId) -> bool {
            let same = self
                .variables
                .get(name)
                .is_none_or(|value| (**value).type_id() == wanted);
            if !same {
                eprintln!("The type of the variable {name} was redefined, so was lost.");
                println!("{VARIABLE_CHANGED_TYPE}{name}");
            }
            same
        }

        fn take(&mut self, name: &str) -> Box<dyn Any> {
            match self.variables.remove(name) {
                Some(value) => value,
                None => panic!("Variable '{name}' has gone missing"),
            }
        }
    }
}
