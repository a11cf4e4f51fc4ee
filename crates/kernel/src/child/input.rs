//! Standard input of a cell: a pipe that is filled when the cell reads from it.
//!
//! Nobody tells a pipe's other end that a reader waits. On Linux a thread of this process looks at
//! the system calls of the process's threads while a cell runs, ten times a second. Elsewhere,
//! standard input is at its end.

use super::{Event, tell};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How often the threads are looked at while a cell runs.
const INTERVAL: Duration = Duration::from_millis(100);

struct State {
    running: bool,
    /// The number of the question whose answer is awaited.
    asked: Option<u64>,
    /// Questions so far. The number of the process is in it too, so that no process gets the answer
    /// for another.
    questions: u64,
    /// The end of the pipe that the cell's input comes from. `None` after the end of input.
    pipe: Option<OwnedFd>,
}

pub struct Input {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Input {
    /// Starts the threads. `events` and `answers` are ends of pipes to the kernel.
    pub fn start(events: OwnedFd, answers: OwnedFd) -> std::io::Result<Self> {
        let state = State {
            running: false,
            asked: None,
            questions: u64::from(std::process::id()) << 32,
            pipe: None,
        };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let input = Input {
            shared: Arc::clone(&shared),
        };
        input.cell_starts()?;
        let watched = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("kernel-watch".into())
            .spawn(move || watch(&watched, &events))?;
        std::thread::Builder::new()
            .name("kernel-input".into())
            .spawn(move || deliver(&shared, answers))?;
        Ok(input)
    }

    /// Gives the cell a standard input that is not at its end.
    pub fn cell_starts(&self) -> std::io::Result<()> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(|e| e.into_inner());
        if state.pipe.is_none() {
            state.pipe = renewed()?;
        }
        (state.running, state.asked) = (true, None);
        changed.notify_all();
        Ok(())
    }

    pub fn cell_ends(&self) {
        let mut state = self.shared.0.lock().unwrap_or_else(|e| e.into_inner());
        state.running = false;
    }
}

/// Makes a pipe whose read end becomes standard input, and returns its write end.
fn renewed() -> std::io::Result<Option<OwnedFd>> {
    if !cfg!(target_os = "linux") {
        let nothing = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        return Ok(None);
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::stdio::dup2_stdin(&read)?;
    Ok(Some(write))
}

/// Tells the kernel when a cell waits for input, and ends this process when its kernel has ended.
fn watch(shared: &(Mutex<State>, Condvar), events: &OwnedFd) {
    let kernel = rustix::process::getppid();
    loop {
        let (state, changed) = shared;
        let mut state = state.lock().unwrap_or_else(|e| e.into_inner());
        if !state.running {
            (state, _) = changed
                .wait_timeout(state, Duration::from_secs(1))
                .unwrap_or_else(|e| e.into_inner());
        }
        if state.running && state.asked.is_none() && somebody_reads() {
            state.questions += 1;
            state.asked = Some(state.questions);
            let id = state.questions;
            tell(events.as_fd(), &Event::Asks { id });
        }
        drop(state);
        if rustix::process::getppid() != kernel {
            // The cell's own processes are in the same group.
            let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Whether a thread of this process, or of one that it started, waits in a call that reads standard
/// input.
fn somebody_reads() -> bool {
    // An answer that is not read yet: the thread is about to wake up.
    if !rustix::io::ioctl_fionread(rustix::stdio::stdin()).is_ok_and(|unread| unread == 0) {
        return false;
    }
    // The number of the system call `read`, and its first argument.
    let reads = format!("{} 0x0 ", libc::SYS_read);
    let mut processes = vec!["self".to_owned()];
    let input = std::fs::read_link("/proc/self/fd/0").ok();
    while let Some(process) = processes.pop() {
        let folder = std::path::Path::new("/proc").join(&process);
        // A program that the cell started reads the same input, unless it was given another.
        let same = std::fs::read_link(folder.join("fd/0")).ok() == input;
        for thread in std::fs::read_dir(folder.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |name| std::fs::read_to_string(thread.path().join(name));
            if same && read("syscall").is_ok_and(|call| call.starts_with(&reads)) {
                return true;
            }
            let children = read("children").unwrap_or_default();
            processes.extend(children.split_whitespace().map(String::from));
        }
    }
    false
}

/// Passes the kernel's answers on to the cell: `{"id": 1, "value": "…"}`, or no value for the end of
/// input.
fn deliver(shared: &(Mutex<State>, Condvar), answers: OwnedFd) {
    for line in BufReader::new(std::fs::File::from(answers)).lines() {
        let Ok(line) = line else { return };
        let answer: Value = serde_json::from_str(&line).unwrap_or_default();
        let mut state = shared.0.lock().unwrap_or_else(|e| e.into_inner());
        if answer["id"].as_u64() != state.asked || state.asked.is_none() {
            continue;
        }
        state.asked = None;
        let Some(pipe) = state.pipe.take() else {
            continue;
        };
        if let Some(value) = answer["value"].as_str()
            && let Ok(write) = pipe.try_clone()
        {
            state.pipe = Some(pipe);
            // Without the lock: a long line waits until the cell reads it.
            drop(state);
            let mut write = std::fs::File::from(write);
            let _ = write.write_all(format!("{value}\n").as_bytes());
        }
    }
}
