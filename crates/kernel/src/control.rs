//! The requests that wait, and what stops cells.

use crate::messages::Request;
use rustix::process::{Pid, Signal};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time after which what an interrupted cell started is ended again.
const AGAIN: Duration = Duration::from_millis(100);

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The requests that wait, with the times at which they came.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<(Request, Instant)>>,
    changed: Condvar,
}

impl Queue {
    pub fn push(&self, request: Request) {
        locked(&self.waiting).push_back((request, Instant::now()));
        self.changed.notify_all();
    }

    /// Returns the first request, if one comes within a time.
    pub fn pop(&self, time: Duration) -> Option<(Request, Instant)> {
        let waiting = locked(&self.waiting);
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, time, |waiting| waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }

    /// Takes the requests to run cells out of the queue.
    pub fn take_cells(&self) -> Vec<Request> {
        let mut waiting = locked(&self.waiting);
        let (cells, others) = waiting
            .drain(..)
            .partition::<VecDeque<_>, _>(|(request, _)| request.kind() == "execute_request");
        *waiting = others;
        cells.into_iter().map(|(request, _)| request).collect()
    }
}

/// What happened to a cell that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    pub interrupted: bool,
    /// Its process was ended because of the interrupt.
    pub killed: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    Idle,
    /// A cell is about to be read, or waits until evcxr has started.
    Waiting,
    /// A cell is compiled or run.
    Busy,
}

#[derive(Default)]
struct State {
    cell: u64,
    phase: Phase,
    /// Whether the code of the cell runs in its process.
    running: bool,
    interrupted: bool,
    killed: bool,
    process: Option<Arc<Mutex<Child>>>,
    work: PathBuf,
}

/// Stops cells. One lock guards all of it, so that an interrupt is for the cell that it finds.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
}

impl Control {
    pub fn new(work: PathBuf) -> Self {
        let control = Self::default();
        locked(&control.state).work = work;
        control
    }

    /// Sets the handle of the process for cells, which stays valid when evcxr starts another.
    pub fn set_process(&self, process: Arc<Mutex<Child>>) {
        locked(&self.state).process = Some(process);
    }

    /// Stops the cell that is compiled or run. Does nothing if there is none.
    pub fn interrupt(self: &Arc<Self>) {
        let mut state = locked(&self.state);
        match state.phase {
            Phase::Idle => {}
            Phase::Waiting => state.interrupted = true,
            Phase::Busy => {
                let first = !state.interrupted;
                state.interrupted = true;
                if state.running {
                    state.kill();
                } else {
                    state.stop_compiling();
                    // The shell of a line with `!` may start only now.
                    if first {
                        let (control, cell) = (Arc::clone(self), state.cell);
                        std::thread::spawn(move || control.stop_until_the_end(cell));
                    }
                }
            }
        }
    }

    /// Ends what an interrupted cell starts outside of its process, until the cell ends.
    fn stop_until_the_end(&self, cell: u64) {
        loop {
            std::thread::sleep(AGAIN);
            let state = locked(&self.state);
            let goes_on = state.cell == cell && state.phase == Phase::Busy && !state.running;
            if !goes_on || state.killed {
                return;
            }
            state.stop_compiling();
        }
    }

    /// Ends the process for cells, what is compiled, and all that they started: the kernel ends.
    pub fn end_all(&self) {
        let mut state = locked(&self.state);
        state.stop_compiling();
        state.kill();
    }

    /// Called when the cell's code starts: it may have been interrupted just before.
    pub fn cell_runs(&self) {
        let mut state = locked(&self.state);
        state.running = true;
        if state.phase == Phase::Busy && state.interrupted {
            state.kill();
        }
    }

    /// Called when the cell's code has ended.
    pub fn cell_ended(&self) {
        locked(&self.state).running = false;
    }

    /// The number of the cell that is compiled or run, or was last.
    pub fn cell(&self) -> u64 {
        locked(&self.state).cell
    }

    /// Whether a cell is still compiled or run, and not interrupted.
    pub fn runs(&self, cell: u64) -> bool {
        let state = locked(&self.state);
        state.cell == cell && state.phase == Phase::Busy && !state.interrupted
    }

    /// A cell is next. From here an interrupt is for this cell.
    pub fn wait(&self) {
        let mut state = locked(&self.state);
        state.cell += 1;
        state.phase = Phase::Waiting;
        (state.running, state.interrupted, state.killed) = (false, false, false);
        let _ = std::fs::remove_file(state.work.join("interrupted"));
    }

    /// The cell is given to evcxr. Returns `false` if it was interrupted before.
    pub fn begin(&self) -> bool {
        let mut state = locked(&self.state);
        state.phase = Phase::Busy;
        !state.interrupted
    }

    /// The cell has ended, if there was one. From here an interrupt does nothing.
    pub fn end(&self) -> Stopped {
        let mut state = locked(&self.state);
        state.phase = Phase::Idle;
        state.running = false;
        Stopped {
            interrupted: state.interrupted,
            killed: state.killed,
        }
    }

    /// The ID of the process for cells.
    pub fn process(&self) -> Option<i32> {
        locked(&self.state).id()
    }
}

impl State {
    fn id(&self) -> Option<i32> {
        // evcxr holds the lock only while it waits for a process that has ended.
        let process = self.process.as_ref()?.try_lock().ok()?;
        Some(process.id() as i32)
    }

    fn kill(&mut self) {
        self.killed = true;
        if let Some(id) = self.id() {
            kill_group(id);
        }
    }

    /// Ends rustc or cargo, and a program that a line with `!` runs.
    fn stop_compiling(&self) {
        // The shim compiles nothing as long as this file exists.
        let _ = std::fs::write(self.work.join("interrupted"), "");
        if let Ok(group) = std::fs::read_to_string(self.work.join("compiling"))
            && let Ok(group) = group.trim().parse()
        {
            kill_group(group);
        }
        // `!` starts a shell, which starts the program. Each is stopped before its own processes
        // are listed, so that it starts no others meanwhile.
        let mut started = children("self".as_ref());
        if let Some(process) = self.id() {
            started.retain(|&id| id != process);
        }
        let mut next = 0;
        while let Some(&id) = started.get(next) {
            signal(id, Signal::STOP);
            started.extend(children(id.to_string().as_ref()));
            next += 1;
        }
        for id in started {
            signal(id, Signal::KILL);
        }
    }
}

fn signal(id: i32, signal: Signal) {
    if let Some(id) = Pid::from_raw(id) {
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// The processes that the threads of a process started; none where there is no `/proc`.
fn children(process: &Path) -> Vec<i32> {
    let threads = std::fs::read_dir(Path::new("/proc").join(process).join("task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("children"));
            let ids = text.unwrap_or_default();
            ids.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Ends a process group: a process with all that it started.
pub fn kill_group(id: i32) {
    if let Some(group) = Pid::from_raw(id) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}
