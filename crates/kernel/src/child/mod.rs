//! The process that loads and runs cells: this program, started by the kernel with
//! [`CHANNELS`] in its environment.
//!
//! evcxr talks to such a process through its standard input and output, one line per message. A
//! cell that prints an unfinished line would spoil that. So this process moves evcxr's two pipes to
//! other file descriptors, and gives the cell three of its own:
//!
//! | descriptor | leads to |
//! | --- | --- |
//! | 0 | a pipe that [`input`] fills with what the user types |
//! | 1, 2 | the kernel, which reads them as they come (`output.rs`) |
//!
//! Two more pipes carry what the kernel must know at once ([`Event`]), and the answers to
//! requests for input.

mod crash;
mod input;

use libloading::Library;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use serde_json::{Value, json};
use std::ffi::c_void;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;

/// The environment variable with the four descriptors that the process inherits: the ends for
/// standard output, standard error and events, and the one from which answers are read.
pub const CHANNELS: &str = "CARGO_KERNEL_CHANNELS";
/// The environment variable with the descriptor on which evcxr reads the end of a cell. The library
/// that cells are linked with reads it.
pub const CONTROL: &str = "CARGO_KERNEL_CONTROL";
/// The environment variable with the words by which evcxr recognises its own child process.
const IS_RUNTIME: &str = "EVCXR_IS_RUNTIME";
/// What evcxr reads at the end of a cell.
const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE\n";

/// What the process tells the kernel, one JSON object per line.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// A cell starts to run. Its library is loaded at an address.
    Running { library: String, base: u64 },
    /// The cell's code has ended.
    Ended,
    /// The cell waits for a line of standard input. The answer must have the same number: one that
    /// comes late must not reach a later cell.
    Asks { id: u64 },
    /// The process is about to die of a signal, with these return addresses, the innermost first.
    Crashed { addresses: Vec<u64> },
}

impl Event {
    /// Parses a line. Returns `None` for any other text.
    pub fn parse(line: &str) -> Option<Self> {
        // A signal handler cannot write JSON.
        if let Some(rest) = line.strip_prefix("crashed") {
            let addresses = rest
                .split_whitespace()
                .map_while(|word| u64::from_str_radix(word, 16).ok())
                .collect();
            return Some(Event::Crashed { addresses });
        }
        let value: Value = serde_json::from_str(line).ok()?;
        match value["event"].as_str()? {
            "running" => Some(Event::Running {
                library: value["library"].as_str()?.into(),
                base: value["base"].as_u64()?,
            }),
            "ended" => Some(Event::Ended),
            "asks" => Some(Event::Asks {
                id: value["id"].as_u64()?,
            }),
            _ => None,
        }
    }

    fn line(&self) -> String {
        match self {
            Event::Running { library, base } => {
                format!(
                    "{}\n",
                    json!({ "event": "running", "library": library, "base": base })
                )
            }
            Event::Ended => "{\"event\":\"ended\"}\n".into(),
            Event::Asks { id } => format!("{}\n", json!({ "event": "asks", "id": id })),
            Event::Crashed { .. } => "crashed\n".into(),
        }
    }
}

/// The write end for events. A line is shorter than what a pipe takes at once, so lines of several
/// threads do not mix.
fn tell(events: BorrowedFd, event: &Event) {
    let _ = rustix::io::write(events, event.line().as_bytes());
}

/// Runs cells until the kernel closes the pipe, if this process was started for that. Returns
/// for any other process.
pub fn run_if_asked() {
    let Ok(channels) = std::env::var(CHANNELS) else {
        return;
    };
    if std::env::var_os(IS_RUNTIME).is_none() {
        return;
    }
    let error = match serve(&channels) {
        Ok(()) => std::process::exit(0),
        Err(error) => error,
    };
    eprintln!("cargo-kernel: the process for cells cannot go on: {error:#}");
    std::process::exit(99);
}

fn serve(channels: &str) -> anyhow::Result<()> {
    let numbers: Vec<RawFd> = channels
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [out, err, events, answers] = numbers[..] else {
        anyhow::bail!("expected four descriptors, found {channels}");
    };
    // SAFETY: the kernel opened these for this process, and nothing else in it uses them.
    let [out, err, events, answers] =
        [out, err, events, answers].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let stdin = std::io::stdin();
    let control_in = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 10)?;
    let control_out = rustix::io::fcntl_dupfd_cloexec(std::io::stdout().as_fd(), 10)?;
    for fd in [&events, &answers] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    rustix::stdio::dup2_stdout(&out)?;
    rustix::stdio::dup2_stderr(&err)?;
    drop((out, err));
    let backtraces = std::env::var("CARGO_KERNEL_BACKTRACE").ok();
    // SAFETY: no other thread exists yet.
    unsafe {
        std::env::set_var(CONTROL, control_out.as_raw_fd().to_string());
        std::env::remove_var(CHANNELS);
        std::env::remove_var(IS_RUNTIME);
        // evcxr asks for a backtrace of every panic; some sixty of its frames are not the user's.
        match backtraces {
            Some(how) => std::env::set_var("RUST_BACKTRACE", how),
            None => std::env::remove_var("RUST_BACKTRACE"),
        }
        std::env::remove_var("CARGO_KERNEL_BACKTRACE");
    }
    crash::report_to(&events);
    let input = input::Input::start(events.try_clone()?, answers)?;

    let mut cells = Cells::default();
    let mut control_out = std::fs::File::from(control_out);
    for line in BufReader::new(std::fs::File::from(control_in)).lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let ["LOAD_AND_RUN", library, function] = words[..] else {
            anyhow::bail!("expected LOAD_AND_RUN, a library and a function, found `{line}`");
        };
        input.cell_starts()?;
        cells.run(library, function, events.as_fd())?;
        input.cell_ends();
        control_out.write_all(COMPLETE.as_bytes())?;
    }
    Ok(())
}

/// The libraries of all cells so far. None is ever unloaded: values of later cells have their code
/// in them.
struct Cells {
    libraries: Vec<std::mem::ManuallyDrop<Library>>,
    store: *mut c_void,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            libraries: Vec::new(),
            store: std::ptr::null_mut(),
        }
    }
}

impl Cells {
    fn run(&mut self, library: &str, function: &str, events: BorrowedFd) -> anyhow::Result<()> {
        // SAFETY: the library was compiled from a cell; that its initialisers run is what the user
        // asked for.
        let loaded = unsafe { Library::new(library) }?;
        // SAFETY: evcxr generates the function with this signature.
        let cell = unsafe {
            loaded.get::<extern "C" fn(*mut c_void) -> *mut c_void>(function.as_bytes())
        }?;
        tell(
            events,
            &Event::Running {
                library: library.into(),
                base: crash::base_of(*cell as *const c_void),
            },
        );
        self.store = cell(self.store);
        // The library that cells are linked with writes out what is buffered in their `stdout`,
        // which is not this program's.
        // SAFETY: its signature is that of `cell_ended` in `cell/report.rs`.
        if let Ok(ended) = unsafe { loaded.get::<extern "C" fn()>(b"cargo_kernel_cell_ended") } {
            ended();
        }
        // SAFETY: a null stream stands for all streams of C's library.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        tell(events, &Event::Ended);
        self.libraries.push(std::mem::ManuallyDrop::new(loaded));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn events_survive_the_pipe() {
        for event in [
            Event::Running {
                library: "/a b/\"c\".so".into(),
                base: u64::MAX,
            },
            Event::Ended,
            Event::Asks { id: 7 },
        ] {
            assert_eq!(Event::parse(event.line().trim_end()), Some(event));
        }
        assert_eq!(
            Event::parse("crashed 10 ff "),
            Some(Event::Crashed {
                addresses: vec![16, 255]
            })
        );
        assert_eq!(Event::parse("{\"event\":\"other\"}"), None);
        assert_eq!(Event::parse("text"), None);
    }
}
