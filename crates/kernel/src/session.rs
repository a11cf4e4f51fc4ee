//! Answers the requests of the shell channel, one after the other, with evcxr.

use crate::control::{Control, Queue, kill_group};
use crate::messages::{Publisher, Request};
use crate::output::{Output, Seen, Target};
use crate::report::CellError;
use crate::start::Work;
use crate::text;
use evcxr::{CommandContext, EvalContext};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How long after a request that failed those sent together with it may arrive.
const TOGETHER: Duration = Duration::from_millis(30);

/// Starts evcxr, which takes a second or two, and checks that it generates the code that the shim
/// edits.
///
/// # Errors
/// A message for the user.
pub fn start_evcxr(command: std::process::Command, work: &Work) -> Result<CommandContext, String> {
    let (context, outputs) =
        EvalContext::with_subprocess_command(command).map_err(|e| e.to_string())?;
    // Nothing comes this way: cells write to the kernel's own pipes.
    std::thread::spawn(move || while outputs.stdout.recv().is_ok() {});
    std::thread::spawn(move || while outputs.stderr.recv().is_ok() {});
    let mut context = CommandContext::with_eval_context(context);
    // The shim compares the code of this cell with what it knows. The cell uses `?`, so that the
    // user's first `?` needs no second compilation.
    context
        .execute(crate::shim::CHECK)
        .map_err(|e| format!("the kernel's check of evcxr failed: {e}"))?;
    // A setting of the user for evcxr could lead it to another folder.
    let folder = work.folder.join("ctx");
    let used = context
        .execute(":last_compile_dir")
        .map_err(|e| e.to_string())?;
    if !used
        .get("text/plain")
        .is_some_and(|text| text.contains(&*folder.to_string_lossy()))
    {
        return Err(
            "evcxr compiles in another folder than the kernel's: remove `tmpdir` from evcxr.toml"
                .into(),
        );
    }
    if !work.folder.join(crate::shim::CHECKED).exists() {
        return Err(crate::shim::incomplete());
    }
    context
        .execute(":load_config --quiet")
        .map_err(|e| format!("evcxr.toml: {e}"))?;
    // What the shim has to say, it says in the user's first cell.
    std::fs::write(work.folder.join("ready"), "").map_err(|e| e.to_string())?;
    Ok(context)
}

/// What the thread needs that answers requests.
pub struct Session {
    pub queue: Arc<Queue>,
    pub control: Arc<Control>,
    pub output: Output,
    pub publisher: Publisher,
    pub replies: UnboundedSender<jupyter_zmq_client::JupyterMessage>,
    pub work: Arc<Work>,
    /// Gives evcxr when it has started.
    pub starting: Receiver<Result<CommandContext, String>>,
    pub context: Option<Result<CommandContext, String>>,
    pub count: u64,
    /// The cells so far, with their results.
    pub history: Vec<(String, Option<String>)>,
}

impl Session {
    /// Answers requests for ever.
    pub fn run(mut self) {
        let mut first_questions = None;
        loop {
            let (request, received) = self.next(&mut first_questions);
            // A client that reads "busy" may interrupt at once; the interrupt is for this cell.
            if request.kind() == "execute_request" {
                self.control.wait();
            }
            self.publisher.status("busy", Some(&request));
            // evcxr and rust-analyzer may panic; a kernel without this thread would look alive and
            // answer nothing.
            let answer = catch_unwind(AssertUnwindSafe(|| self.answer(&request)));
            let content = answer.unwrap_or_else(|_| Some(self.panicked(&request)));
            self.control.end();
            let failed = content.as_ref().is_some_and(|c| c["status"] == "error");
            let stops = request.kind() == "execute_request"
                && failed
                && request.content["stop_on_error"].as_bool() != Some(false);
            let aborted = match stops {
                true => {
                    let left = TOGETHER.saturating_sub(received.elapsed());
                    std::thread::sleep(left);
                    self.queue.take_cells()
                }
                false => Vec::new(),
            };
            if let Some(content) = content {
                let _ = self.replies.send(request.reply(content));
            }
            self.publisher.status("idle", Some(&request));
            for request in aborted {
                self.publisher.status("busy", Some(&request));
                // Without a number: the cell has none.
                let _ = self
                    .replies
                    .send(request.reply(json!({ "status": "aborted" })));
                self.publisher.status("idle", Some(&request));
            }
        }
    }

    /// Returns the content of the reply. `None` for a message that has none.
    fn answer(&mut self, request: &Request) -> Option<Value> {
        match request.kind() {
            "execute_request" => Some(self.execute(request)),
            "kernel_info_request" => Some(kernel_info(&self.work)),
            "complete_request" => Some(self.completions(request)),
            "inspect_request" => Some(self.inspect(request)),
            "is_complete_request" => Some(is_complete(request.text("code"))),
            "history_request" => Some(self.history_of(&request.content)),
            "comm_info_request" => Some(json!({ "status": "ok", "comms": {} })),
            "comm_open" => {
                // No target exists here.
                let content = json!({ "comm_id": request.content["comm_id"], "data": {} });
                self.publisher.publish("comm_close", content, Some(request));
                None
            }
            _ => None,
        }
    }

    /// The answer to a request during which evcxr panicked.
    fn panicked(&self, request: &Request) -> Value {
        let text = "The kernel's analysis of the code failed (the message is in Jupyter's terminal). \
                    If it does so again, restart the kernel.";
        let error = CellError::new("KernelError", text);
        if request.kind() == "execute_request" {
            self.output.end();
            return self.failed(error, request, self.count, true);
        }
        let mut content = error.content();
        content["status"] = json!("error");
        content
    }

    /// Returns the next request. Until one comes, starts what later ones need.
    fn next(&mut self, questions: &mut Option<std::vec::IntoIter<String>>) -> (Request, Instant) {
        loop {
            // Requests that do not need evcxr are answered while it starts.
            if self.context.is_none() {
                if let Some(next) = self.queue.pop(Duration::from_millis(50)) {
                    return next;
                }
                if let Ok(started) = self.starting.try_recv() {
                    self.started(started);
                }
                continue;
            }
            if let Some(next) = self.queue.pop(Duration::ZERO) {
                return next;
            }
            let questions = questions.get_or_insert_with(|| self.first_questions().into_iter());
            match (questions.next(), &mut self.context) {
                (Some(code), Some(Ok(context))) => {
                    let _ = context.completions(&code, code.len());
                }
                _ => {
                    if let Some(next) = self.queue.pop(Duration::from_secs(3600)) {
                        return next;
                    }
                }
            }
        }
    }

    /// Texts whose completion makes rust-analyzer read std and the project, which takes it some
    /// seconds: better before the user's first cell than with it.
    fn first_questions(&self) -> Vec<String> {
        let mut texts = vec!["let v = vec![1].len(); v.".to_owned()];
        texts.extend(self.work.crates.iter().map(|name| format!("{name}::")));
        texts
    }

    fn started(&mut self, started: Result<CommandContext, String>) {
        if let Ok(context) = &started {
            self.control.set_process(context.process_handle());
        }
        self.context = Some(started);
    }

    /// Returns evcxr, once it has started.
    fn context(&mut self) -> Result<&mut CommandContext, String> {
        if self.context.is_none() {
            let started = self
                .starting
                .recv()
                .unwrap_or_else(|_| Err("evcxr did not start".into()));
            self.started(started);
        }
        match &mut self.context {
            Some(Ok(context)) => Ok(context),
            Some(Err(message)) => Err(message.clone()),
            None => Err("evcxr did not start".into()),
        }
    }

    fn execute(&mut self, request: &Request) -> Value {
        let code = request.text("code").to_owned();
        let silent = request.content["silent"].as_bool().unwrap_or(false);
        let stored = request.content["store_history"].as_bool().unwrap_or(true);
        if stored && !silent {
            self.count += 1;
            self.history.push((code.clone(), None));
        }
        let count = self.count;
        if !silent {
            self.publisher.publish(
                "execute_input",
                json!({ "code": code, "execution_count": count }),
                Some(request),
            );
        }
        let ok = json!({
            "status": "ok", "execution_count": count, "user_expressions": {}, "payload": [],
        });
        if code.trim().is_empty() {
            return ok;
        }
        if text::sets_format(&code) {
            // The shim leaves the display of values to evcxr then.
            let _ = std::fs::write(self.work.folder.join("own-format"), "");
        }
        if let Some(error) = text::no_pattern(&code) {
            let error = CellError::new("CompileError", error);
            return self.failed(error, request, count, true);
        }
        // What runs when evcxr starts is not the user's.
        let ready = self.context().map(drop);
        self.output.begin(Target {
            request: request.clone(),
            count,
            has_result: text::has_result(&code),
            silent,
        });
        if !self.control.begin() {
            let error = CellError::new("Interrupted", "The cell was interrupted before it ran.");
            return self.failed(error, request, count, true);
        }
        let process = self.control.process();
        let done = ready.and_then(|()| self.context()).map(|context| {
            let lost = context.variables_and_types().next().is_some();
            (context.execute(&text::with_documentation(&code)), lost)
        });
        let stopped = self.control.end();
        let seen = self.output.end();
        if stored
            && !silent
            && let Some(last) = self.history.last_mut()
        {
            last.1.clone_from(&seen.result);
        }
        let (mut result, lost) = match done {
            Ok(done) => done,
            Err(message) => {
                let error = CellError::new("KernelError", message);
                return self.failed(error, request, count, true);
            }
        };
        if stopped.killed && !matches!(result, Err(evcxr::Error::SubprocessTerminated(_))) {
            // The cell had just ended: evcxr does not know yet that its process is gone.
            if let Ok(context) = self.context() {
                let _ = context.execute(":restart");
            }
            result = Err(evcxr::Error::SubprocessTerminated(String::new()));
        }
        if matches!(result, Err(evcxr::Error::SubprocessTerminated(_)))
            && let Some(process) = process
        {
            // What its cells started ends with it.
            kill_group(process);
        }
        let error = match result {
            Err(evcxr::Error::SubprocessTerminated(_)) if stopped.interrupted => {
                let lost = match lost {
                    true => ", and the variables of earlier cells are lost",
                    false => "",
                };
                let text = format!("The cell was interrupted: its process was stopped{lost}.");
                Some(CellError::new("Interrupted", text))
            }
            Err(_) if stopped.interrupted => Some(CellError::new(
                "Interrupted",
                "The cell was interrupted while it was compiled; all variables are kept.",
            )),
            Err(evcxr::Error::SubprocessTerminated(said)) => Some(CellError::of_process(
                &said,
                &seen,
                &code,
                &self.work.cell_source(),
                lost,
            )),
            Err(evcxr::Error::CompilationErrors(errors)) => {
                Some(CellError::of_compiler(&errors, &code, count))
            }
            Err(error) => Some(CellError::new("Error", error.to_string())),
            Ok(outputs) => {
                if !outputs.content_by_mime_type.is_empty() && !silent {
                    let data: Value = outputs
                        .content_by_mime_type
                        .into_iter()
                        .map(|(kind, text)| (kind, Value::from(text)))
                        .collect::<serde_json::Map<_, _>>()
                        .into();
                    let content = json!({ "execution_count": count, "data": data, "metadata": {} });
                    self.publisher
                        .publish("execute_result", content, Some(request));
                }
                None
            }
        };
        match (error, seen) {
            (Some(error), _) => self.failed(error, request, count, true),
            // The cell's own message is among its output already.
            (
                None,
                Seen {
                    error: Some(content),
                    ..
                },
            ) => {
                let error = CellError {
                    name: content["ename"].as_str().unwrap_or_default().into(),
                    value: content["evalue"].as_str().unwrap_or_default().into(),
                    traceback: content["traceback"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|line| line.as_str().map(String::from))
                        .collect(),
                };
                self.failed(error, request, count, false)
            }
            (None, Seen { no_input: true, .. }) => {
                let error = CellError::new(
                    "StdinNotSupported",
                    "The cell read from standard input, which cannot be asked for here: it was at \
                     its end at once. All variables are kept.",
                );
                self.failed(error, request, count, true)
            }
            (None, _) => ok,
        }
    }

    fn failed(&self, error: CellError, request: &Request, count: u64, publish: bool) -> Value {
        let mut content = error.content();
        if publish {
            self.publisher
                .publish("error", content.clone(), Some(request));
        }
        content["status"] = json!("error");
        content["execution_count"] = json!(count);
        content["user_expressions"] = json!({});
        content["payload"] = json!([]);
        content
    }

    fn completions(&mut self, request: &Request) -> Value {
        let code = request.text("code").to_owned();
        let position = position_in(&code, &request.content);
        let asked = text::without_commands(&code, position);
        let found = self.context().and_then(|context| {
            context
                .completions(&asked, position)
                .map_err(|e| e.to_string())
        });
        let (found, start, end) = match found {
            Ok(found) => {
                let at = |byte| text::character_of(&code, byte);
                let (start, end) = (at(found.start_offset), at(found.end_offset));
                (found.completions, start, end)
            }
            // Text that evcxr cannot analyse has no completions.
            Err(_) => {
                let at = text::character_of(&code, position);
                (Vec::new(), at, at)
            }
        };
        let types: Vec<Value> = found
            .iter()
            .map(|c| json!({ "text": c.code, "type": c.kind, "start": start, "end": end }))
            .collect();
        json!({
            "status": "ok",
            "matches": found.iter().map(|c| &c.code).collect::<Vec<_>>(),
            "cursor_start": start,
            "cursor_end": end,
            "metadata": { "_jupyter_types_experimental": types },
        })
    }

    fn inspect(&mut self, request: &Request) -> Value {
        let code = request.text("code").to_owned();
        let position = position_in(&code, &request.content);
        let all = request.content["detail_level"].as_u64() == Some(1);
        let found = text::name_at(&code, position).and_then(|end| {
            let context = self.context().ok()?;
            let asked = text::without_commands(&code, end);
            let (plain, html) = context.hover_at(&asked, end).ok()?;
            (plain != "No documentation found").then_some((plain, html))
        });
        match found {
            Some((plain, html)) => {
                let (plain, html) = match all {
                    true => (plain, html),
                    false => crate::hover::short(&plain, &html),
                };
                json!({
                    "status": "ok",
                    "found": true,
                    "data": { "text/plain": plain, "text/html": html },
                    "metadata": {},
                })
            }
            None => json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
        }
    }

    fn history_of(&self, request: &Value) -> Value {
        let outputs = request["output"].as_bool() == Some(true);
        let entry = |i: usize| {
            let (code, result) = &self.history[i];
            match outputs {
                true => json!([0, i + 1, [code, result]]),
                false => json!([0, i + 1, code]),
            }
        };
        let length = self.history.len();
        let number = |name: &str| request[name].as_i64();
        let entries: Vec<Value> = match request["hist_access_type"].as_str() {
            Some("range") => {
                let from = number("start").unwrap_or(1).max(1) as usize - 1;
                let to = number("stop").map_or(length, |n| n.max(1) as usize - 1);
                (from..to.min(length)).map(entry).collect()
            }
            Some("search") => {
                let pattern = wildcard(request["pattern"].as_str().unwrap_or("*"));
                let mut found: Vec<usize> = (0..length)
                    .filter(|i| pattern.is_match(&self.history[*i].0))
                    .collect();
                if request["unique"].as_bool() == Some(true) {
                    // The last of equal cells.
                    found.retain(|i| {
                        let later = &self.history[i + 1..];
                        later.iter().all(|(code, _)| *code != self.history[*i].0)
                    });
                }
                let n = number("n").map_or(found.len(), |n| n.max(0) as usize);
                let skipped = found.len().saturating_sub(n);
                found.into_iter().skip(skipped).map(entry).collect()
            }
            _ => {
                let n = number("n").unwrap_or(0).max(0) as usize;
                (length.saturating_sub(n)..length).map(entry).collect()
            }
        };
        json!({ "status": "ok", "history": entries })
    }
}

/// Makes the pattern of a history search: `*` and `?` stand for any text and any character.
fn wildcard(pattern: &str) -> regex::Regex {
    let escaped = regex::escape(pattern)
        .replace("\\*", "(?s:.*)")
        .replace("\\?", "(?s:.)");
    regex::Regex::new(&format!("^{escaped}$")).unwrap_or_else(|_| {
        // An escaped pattern is always valid unless it is too long.
        regex::Regex::new("$^").unwrap()
    })
}

fn position_in(code: &str, content: &Value) -> usize {
    let character = content["cursor_pos"].as_u64();
    character.map_or(code.len(), |n| text::byte_of(code, n as usize))
}

fn is_complete(code: &str) -> Value {
    match text::complete(code) {
        text::Readiness::Ready => json!({ "status": "complete" }),
        text::Readiness::Incomplete => json!({ "status": "incomplete", "indent": "    " }),
        text::Readiness::Invalid => json!({ "status": "invalid" }),
    }
}

/// What the kernel is.
pub fn kernel_info(work: &Work) -> Value {
    json!({
        "status": "ok",
        "protocol_version": crate::messages::PROTOCOL,
        "implementation": env!("CARGO_PKG_NAME"),
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "language_info": {
            "name": "rust",
            "version": work.rust_version,
            "mimetype": "text/rust",
            "file_extension": ".rs",
            "pygments_lexer": "rust",
            "codemirror_mode": "rust",
        },
        "banner": format!(
            "Rust with the crate {} ({} {}, evcxr 0.22)",
            work.crate_name, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"),
        ),
        "help_links": [
            { "text": "Rust's standard library", "url": "https://doc.rust-lang.org/stable/std/" },
        ],
        "debugger": false,
    })
}
