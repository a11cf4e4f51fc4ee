//! Reads what cells write, and passes it on under the request of the cell.
//!
//! A thread waits for the pipes of the process for cells (`child`). Text is sent as it comes; what a
//! cell wrote before it ended is in the pipes when its end is known, so [`Output::end`] returns only
//! after everything was sent.

use crate::child::Event;
use crate::frames::{Part, Splitter, unfinished_character};
use crate::messages::{Publisher, Request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a display may wait for further forms, or for the end of the cell that makes it its
/// result.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of text that are sent in a row before a pause: a cell that prints without end must not
/// fill the memory of those who listen.
const BURST: usize = 1 << 20;
const PAUSE: Duration = Duration::from_millis(100);
/// What a message counts at least: many small ones are a burden too.
const MESSAGE_COST: usize = 8 << 10;
/// Reads of 64 KiB that empty a full pipe. A thread of the cell may fill it again and again.
const FULL: usize = 2;

/// What the user answers to a cell that waits for input.
pub enum Answer {
    Value(String),
    /// The client cannot ask.
    Refused,
    /// The cell waits no more.
    Nobody,
}

/// The ends of the pipes to the process for cells, and those that the process inherits.
pub struct Pipes {
    out: OwnedFd,
    err: OwnedFd,
    events: OwnedFd,
    answers: OwnedFd,
    /// Of the process: standard output, standard error, events, answers.
    pub inherited: [OwnedFd; 4],
}

impl Pipes {
    /// Opens the pipes.
    ///
    /// # Errors
    /// If no more files can be opened.
    pub fn open() -> std::io::Result<Self> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (out, out_there) = pipe()?;
        let (err, err_there) = pipe()?;
        let (events, events_there) = pipe()?;
        let (answers_there, answers) = pipe()?;
        for fd in [&out, &err, &events] {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let inherited = [out_there, err_there, events_there, answers_there];
        Ok(Self {
            out,
            err,
            events,
            answers,
            inherited,
        })
    }
}

/// What was seen during a cell.
#[derive(Debug, Default)]
pub struct Seen {
    /// The error that the cell reported: a panic, or an error behind `?`.
    pub error: Option<Value>,
    /// The value of the cell's last expression, as text.
    pub result: Option<String>,
    /// The cell asked for input that it could not get.
    pub no_input: bool,
    /// Where the process crashed: the library of the cell, its address, the return addresses.
    pub crash: Option<(String, u64, Vec<u64>)>,
}

/// The request that output belongs to, and how it is treated.
#[derive(Clone)]
pub struct Target {
    pub request: Request,
    pub count: u64,
    /// Whether the cell's last display is its result.
    pub has_result: bool,
    pub silent: bool,
}

enum Order {
    Begin(Target),
    /// The cell has ended: everything that was written is to be sent.
    End(Sender<Seen>),
}

/// The thread that reads.
pub struct Output {
    orders: Sender<Order>,
    wake: OwnedFd,
}

impl Output {
    /// Starts the thread. `ask` is called when a cell waits for input, on a thread of
    /// its own; `runs` when the code of a cell starts and when it has ended.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        pipes: Pipes,
        publisher: Publisher,
        ask: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        runs: impl Fn(bool) + Send + 'static,
    ) -> std::io::Result<(Self, [OwnedFd; 4])> {
        let (wake, woken) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map(|(read, write)| (write, read))?;
        rustix::io::ioctl_fionbio(&woken, true)?;
        let (orders, received) = channel();
        let answers = Arc::new(pipes.answers);
        let reader = Reader {
            out: pipes.out,
            err: pipes.err,
            events: pipes.events,
            woken,
            orders: received,
            publisher,
            ask: Arc::new(ask),
            runs,
            answers: Arc::clone(&answers),
            target: None,
            seen: Seen::default(),
            refused: Arc::default(),
            library: None,
            splitter: Splitter::default(),
            errors: Vec::new(),
            lines: Vec::new(),
            due: None,
            sent: 0,
        };
        std::thread::Builder::new()
            .name("output".into())
            .spawn(move || reader.run())?;
        let output = Output { orders, wake };
        Ok((output, pipes.inherited))
    }

    /// What follows belongs to this request.
    pub fn begin(&self, target: Target) {
        self.order(Order::Begin(target));
    }

    /// Sends everything that the cell wrote, and returns what was seen.
    pub fn end(&self) -> Seen {
        let (answer, seen) = channel();
        self.order(Order::End(answer));
        seen.recv().unwrap_or_default()
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            let _ = rustix::io::write(&self.wake, &[0]);
        }
    }
}

struct Reader<A, R> {
    out: OwnedFd,
    err: OwnedFd,
    events: OwnedFd,
    woken: OwnedFd,
    orders: Receiver<Order>,
    publisher: Publisher,
    ask: Arc<A>,
    runs: R,
    answers: Arc<OwnedFd>,
    target: Option<Target>,
    seen: Seen,
    /// Whether input was refused since the cell began.
    refused: Arc<Mutex<bool>>,
    library: Option<(String, u64)>,
    splitter: Splitter,
    /// Bytes of standard error that do not yet make a character.
    errors: Vec<u8>,
    /// The beginning of a line of events.
    lines: Vec<u8>,
    /// When a display or a piece of text that waits is sent.
    due: Option<Instant>,
    sent: usize,
}

impl<A, R> Reader<A, R>
where
    A: Fn(&Request) -> Answer + Send + Sync + 'static,
    R: Fn(bool),
{
    fn run(mut self) {
        loop {
            let wait = self.due.map(|due| {
                let left = due.saturating_duration_since(Instant::now());
                // Whole milliseconds, rounded up.
                left + Duration::from_millis(1)
            });
            {
                let mut fds = [&self.out, &self.err, &self.events, &self.woken]
                    .map(|fd| PollFd::new(fd, PollFlags::IN));
                let time = wait.map(|w| rustix::event::Timespec {
                    tv_sec: w.as_secs() as i64,
                    tv_nsec: w.subsec_nanos().into(),
                });
                let _ = poll(&mut fds, time.as_ref());
            }
            self.read(1);
            if self.due.is_some_and(|due| Instant::now() >= due) {
                self.due = None;
                let parts = self.splitter.flush(false);
                self.send(parts);
            }
            let mut bytes = [0; 64];
            let _ = rustix::io::read(&self.woken, &mut bytes);
            loop {
                match self.orders.try_recv() {
                    Ok(Order::Begin(target)) => {
                        // What is left in the pipes was written before.
                        self.read(FULL);
                        let parts = self.splitter.flush(true);
                        self.send(parts);
                        self.target = Some(target);
                        self.seen = Seen::default();
                        *self.refused.lock().unwrap_or_else(|e| e.into_inner()) = false;
                    }
                    Ok(Order::End(answer)) => {
                        let seen = self.ended();
                        let _ = answer.send(seen);
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// Reads from each pipe, at most a number of times.
    fn read(&mut self, times: usize) {
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..times {
            let mut nothing = true;
            if let Ok(n @ 1..) = rustix::io::read(&self.events, &mut buffer) {
                nothing = false;
                self.lines.extend_from_slice(&buffer[..n]);
                while let Some(end) = self.lines.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = self.lines.drain(..=end).collect();
                    self.event(String::from_utf8_lossy(&line).trim_end());
                }
            }
            if let Ok(n @ 1..) = rustix::io::read(&self.out, &mut buffer) {
                nothing = false;
                let parts = self.splitter.add(&buffer[..n]);
                self.send(parts);
            }
            if let Ok(n @ 1..) = rustix::io::read(&self.err, &mut buffer) {
                nothing = false;
                self.errors.extend_from_slice(&buffer[..n]);
                let whole = self.errors.len() - unfinished_character(&self.errors);
                self.error_text(whole);
            }
            if nothing {
                return;
            }
        }
    }

    fn error_text(&mut self, length: usize) {
        if length > 0 {
            let text: Vec<u8> = self.errors.drain(..length).collect();
            self.stream("stderr", &String::from_utf8_lossy(&text));
        }
    }

    fn event(&mut self, line: &str) {
        match Event::parse(line) {
            Some(Event::Running { library, base }) => {
                self.library = Some((library, base));
                (self.runs)(true);
            }
            Some(Event::Crashed { addresses }) => {
                // A handler that aborts comes here a second time.
                if let Some((library, base)) = self.library.clone()
                    && self.seen.crash.is_none()
                {
                    self.seen.crash = Some((library, base, addresses));
                }
            }
            Some(Event::Ended) => (self.runs)(false),
            Some(Event::Asks { id }) => self.asked(id),
            None => {}
        }
    }

    /// Asks the user, without keeping the output waiting.
    fn asked(&mut self, id: u64) {
        let Some(target) = self.target.clone() else {
            return;
        };
        // The prompt may stand in an unfinished line.
        self.read(1);
        let ask = Arc::clone(&self.ask);
        let answers = Arc::clone(&self.answers);
        let refused = Arc::clone(&self.refused);
        std::thread::spawn(move || {
            let answer = match ask(&target.request) {
                Answer::Value(value) => json!({ "id": id, "value": value }),
                Answer::Refused => {
                    *refused.lock().unwrap_or_else(|e| e.into_inner()) = true;
                    json!({ "id": id })
                }
                // The cell that asked has ended.
                Answer::Nobody => return,
            };
            let _ = rustix::io::write(answers.as_fd(), format!("{answer}\n").as_bytes());
        });
    }

    fn ended(&mut self) -> Seen {
        self.read(FULL);
        self.error_text(self.errors.len());
        self.due = None;
        // The display that the cell's last expression made was written last.
        if let Some(target) = self.target.clone()
            && target.has_result
        {
            let (data, metadata) = match self.splitter.take_display() {
                Some(Part::Display(data)) => (data.into(), json!({})),
                Some(Part::Message(_, mut content)) => {
                    (content["data"].take(), content["metadata"].take())
                }
                _ => (Value::Null, Value::Null),
            };
            if data.is_object() {
                self.result(json!({ "data": data, "metadata": metadata }));
            }
        }
        let parts = self.splitter.flush(true);
        self.send(parts);
        let mut seen = std::mem::take(&mut self.seen);
        seen.no_input = *self.refused.lock().unwrap_or_else(|e| e.into_inner());
        seen
    }

    fn send(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Text(text) => self.stream("stdout", &text),
                Part::Display(data) => {
                    self.publish("display_data", json!({ "data": data, "metadata": {} }));
                }
                Part::Message(kind, content) if kind == "execute_result" => self.result(content),
                Part::Message(kind, mut content) => {
                    if kind == "error" {
                        self.seen.error = Some(content.clone());
                    }
                    if kind != "clear_output" && kind != "error" {
                        for key in ["data", "metadata", "transient"] {
                            if !content[key].is_object() {
                                content[key] = json!({});
                            }
                        }
                    }
                    self.publish(&kind, content);
                }
            }
        }
        self.due = match self.splitter.waits() {
            true => Some(self.due.unwrap_or_else(|| Instant::now() + PATIENCE)),
            false => None,
        };
    }

    /// Publishes the value of the cell's last expression.
    fn result(&mut self, mut content: Value) {
        let Some(target) = &self.target else { return };
        // As Python shows nothing for None.
        if content["data"] == json!({ "text/plain": "()" }) {
            return;
        }
        content["execution_count"] = json!(target.count);
        self.seen.result = content["data"]["text/plain"].as_str().map(String::from);
        if !content["metadata"].is_object() {
            content["metadata"] = json!({});
        }
        self.publish("execute_result", content);
    }

    fn stream(&mut self, name: &str, text: &str) {
        // What the standard library adds to the message about an allocation that failed.
        let note =
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let text = &*text.replace(note, "");
        if text.is_empty() {
            return;
        }
        self.sent += text.len();
        self.publish("stream", json!({ "name": name, "text": text }));
    }

    fn publish(&mut self, kind: &str, content: Value) {
        self.sent += MESSAGE_COST;
        if self.sent > BURST {
            self.sent = 0;
            std::thread::sleep(PAUSE);
        }
        // Before the first request only the kernel's own cells ran.
        if let Some(target) = &self.target
            && (!target.silent || kind == "error")
        {
            self.publisher.publish(kind, content, Some(&target.request));
        }
    }
}
