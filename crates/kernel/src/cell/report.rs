//! The library that every cell is linked with. It prints notices and reports panics and errors.
//! `shim/compile.rs` compiles this file once per version of rustc, with `store.rs` as its module;
//! it depends only on the standard library.
//!
//! What the kernel must know goes two ways. Lines for evcxr (a variable is lost, the cell
//! panicked) go to the descriptor that [`control`] writes to. What the user sees goes to standard
//! output, among the cell's text and so in its place: a message of Jupyter in a frame
//! (`output.rs`).

use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock};

static RUNNING: AtomicBool = AtomicBool::new(false);
/// A panic: what it said, and where.
type Panic = (String, String);
/// The last panic of the cell's own thread, and of another thread: a library may pass that one on.
static LAST: Mutex<Option<Panic>> = Mutex::new(None);
static OTHER: Mutex<Option<Panic>> = Mutex::new(None);
/// A function of the present cell, from which its library is known.
static PRESENT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Called when a cell is loaded. `source` is the file with the cell's source; with `full`, panics
/// are also printed as usual; `cell` is a function of the cell.
pub fn loaded(notice: &str, source: &'static str, full: bool, cell: *const ()) {
    PRESENT.store(cell.cast_mut(), Ordering::Relaxed);
    for panic in [&LAST, &OTHER] {
        taken(panic);
    }
    if !RUNNING.swap(true, Ordering::Relaxed) {
        remember_panics(source, full);
    }
    if !notice.is_empty() {
        println!("{notice}");
    }
}

/// Called after a cell's function. A cell that ends with a panic or a `print!` may leave text in
/// the buffer.
#[unsafe(no_mangle)]
pub extern "C" fn cargo_kernel_cell_ended() {
    // A panic that the cell caught itself.
    if let Some((text, place)) = taken(&LAST) {
        eprintln!("A panic was caught: {text}\n{place}");
    }
    let _ = std::io::stdout().flush();
}

fn taken(panic: &Mutex<Option<Panic>>) -> Option<Panic> {
    panic.lock().ok()?.take()
}

/// The file of the library that an address is in, as the address where it was loaded.
fn library_of(address: *const ()) -> usize {
    #[repr(C)]
    struct Info {
        file: *const (),
        base: *const (),
        symbol: *const (),
        place: *const (),
    }
    unsafe extern "C" {
        fn dladdr(address: *const (), info: *mut Info) -> i32;
    }
    let mut info = Info {
        file: std::ptr::null(),
        base: std::ptr::null(),
        symbol: std::ptr::null(),
        place: std::ptr::null(),
    };
    // SAFETY: `dladdr` accepts any address, and `Info` has the layout of its `Dl_info`.
    unsafe { dladdr(address, &mut info) };
    info.base as usize
}

/// Sends evcxr a line.
pub fn control(line: &str) {
    static CONTROL: OnceLock<Option<Mutex<std::fs::File>>> = OnceLock::new();
    let control = CONTROL.get_or_init(|| {
        let number = std::env::var("CARGO_KERNEL_CONTROL").ok()?.parse().ok()?;
        // SAFETY: the process opened this descriptor for evcxr before the first cell, and keeps it
        // open. It is never closed here either, because the static is never dropped.
        Some(Mutex::new(unsafe { std::fs::File::from_raw_fd(number) }))
    });
    if let Some(control) = control
        && let Ok(mut control) = control.lock()
    {
        let _ = control.write_all(format!("{line}\n").as_bytes());
    }
}

fn remember_panics(source: &'static str, full: bool) {
    let usual = std::panic::take_hook();
    let cell = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        let text = info
            .payload_as_str()
            .unwrap_or("panicked with a value that is not text");
        let mut place = String::new();
        if let Some(location) = info.location() {
            // A line number in the generated source would not help the user, so the text of the
            // line is shown.
            // Other crates have a file of this name too, and earlier cells.
            let present = PRESENT.load(Ordering::Relaxed);
            let here = library_of(location.file().as_ptr().cast()) == library_of(present);
            let cell = match location.file() {
                "src/lib.rs" if here => std::fs::read_to_string(source).unwrap_or_default(),
                _ => String::new(),
            };
            place = match cell.lines().nth(location.line().saturating_sub(1) as usize) {
                Some(line) => format!("  in: {}", line.trim()),
                None if location.file() == "src/lib.rs" => String::new(),
                None => format!("  at: {location}"),
            };
        }
        // A panic on the cell's own thread is reported when the cell ends.
        if std::thread::current().id() == cell {
            if let Ok(mut last) = LAST.lock() {
                *last = Some((text.to_owned(), place));
            }
            if !full {
                return;
            }
        } else {
            if !full {
                eprintln!("A thread panicked: {text}\n{place}");
            }
            if let Ok(mut other) = OTHER.lock() {
                *other = Some((text.to_owned(), place));
            }
            if !full {
                return;
            }
        }
        usual(info);
    }));
}

/// Called when a cell has panicked, after its values were dropped.
pub fn panicked() {
    control("EVCXR_PANIC_NOTIFICATION");
    let last = taken(&LAST).or_else(|| taken(&OTHER));
    let (text, place) = last.unwrap_or_else(|| ("a panic without a message".into(), String::new()));
    error("Panic", &text, &[format!("panicked: {text}"), place]);
}

/// Called with the message of an error that a `?` returned.
pub fn failed(text: &str) {
    control("EVCXR_ERROR_OCCURRED");
    error("Error", text, &[format!("error: {text}")]);
}

/// Called with the value of a cell's last expression, as text.
pub fn result(text: &str) {
    let content = format!("{{\"data\":{{\"text/plain\":{}}}}}", quoted(text));
    message("execute_result", &content);
}

/// The traits with which a cell shows the value of its last expression. evcxr calls `evcxr_display`
/// on the value, and compiles the cell again with `{:?}` if there is no such method. With these there
/// always is one, so that a cell is compiled once: `value.cargo_kernel_ref()` is a reference, on
/// which a method `evcxr_display(&self)` of the value's type or of a trait is found first, and
/// [`Fallback`] only after it, because it needs one reference more.
pub mod display {
    /// Makes a reference of any value.
    pub trait AsReference {
        /// Returns the value's reference.
        fn cargo_kernel_ref(&self) -> &Self {
            self
        }
    }

    impl<T: ?Sized> AsReference for T {}

    /// Shows a value as text.
    pub trait Fallback {
        /// Shows the value as text.
        fn evcxr_display(&self);
    }

    impl<T: std::fmt::Debug + ?Sized> Fallback for &T {
        fn evcxr_display(&self) {
            super::result(&format!("{:?}", *self));
        }
    }
}

/// Writes an error as Jupyter's message of that kind.
fn error(name: &str, value: &str, traceback: &[String]) {
    let lines: Vec<String> = traceback
        .iter()
        .flat_map(|text| text.lines())
        .map(quoted)
        .collect();
    let content = format!(
        "{{\"ename\":{},\"evalue\":{},\"traceback\":[{}]}}",
        quoted(name),
        quoted(value),
        lines.join(",")
    );
    message("error", &content);
}

fn message(kind: &str, content: &str) {
    let mut out = std::io::stdout().lock();
    let _ = write!(
        out,
        "EVCXR_BEGIN_CONTENT application/vnd.cargo-kernel+json\n\
         {{\"msg_type\":\"{kind}\",\"content\":{content}}}\n\
         EVCXR_END_CONTENT\n"
    );
}

/// Writes text as a string of JSON.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            c if (c as u32) < 0x20 => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
