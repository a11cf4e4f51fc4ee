//! The kernel's sockets: takes requests from them, and sends replies and messages.

use crate::child;
use crate::control::{Control, Queue};
use crate::messages::{Publisher, Request};
use crate::output::{Answer, Output, Pipes};
use crate::session::{Session, start_evcxr};
use crate::start::Work;
use anyhow::{Context, Result};
use jupyter_zmq_client::{
    ConnectionInfo, JupyterMessage, RawMessage, RouterRecvConnection, RouterSendConnection,
    create_kernel_control_connection, create_kernel_heartbeat_connection,
    create_kernel_iopub_connection, create_kernel_shell_connection, create_kernel_stdin_connection,
};
use rustix::fd::AsRawFd;
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use zeromq::SocketRecv;

/// Serves the connection until a client asks to shut down, or the program that started the kernel
/// has ended.
///
/// # Errors
/// If the connection file cannot be read or a port cannot be opened.
pub fn serve(connection: &Path, work: Work) -> Result<()> {
    let text =
        std::fs::read_to_string(connection).with_context(|| connection.display().to_string())?;
    let info: ConnectionInfo =
        serde_json::from_str(&text).with_context(|| connection.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = work.folder.clone();
    let done = runtime.block_on(run(&info, Arc::new(work)));
    // Threads may wait for a cell; they end with the process.
    runtime.shutdown_background();
    let _ = std::fs::remove_dir_all(folder);
    done
}

async fn run(info: &ConnectionInfo, work: Arc<Work>) -> Result<()> {
    let session = format!("kernel-{}", std::process::id());
    let mut heartbeat = create_kernel_heartbeat_connection(info).await?;
    let (shell_out, shell_in) = create_kernel_shell_connection(info, &session)
        .await?
        .split();
    let (control_out, control_in) = create_kernel_control_connection(info, &session)
        .await?
        .split();
    let (stdin_out, stdin_in) = create_kernel_stdin_connection(info, &session)
        .await?
        .split();
    let mut iopub = create_kernel_iopub_connection(info, &session).await?;

    tokio::spawn(async move {
        loop {
            // A client that disappears is an error of its connection, not of the socket.
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let (published, mut to_publish) = unbounded_channel::<JupyterMessage>();
    tokio::spawn(async move {
        while let Some(message) = to_publish.recv().await {
            if let Err(error) = iopub.send(message).await {
                eprintln!("a message could not be published: {error}");
            }
        }
    });
    let publisher = Publisher::new(published);
    publisher.status("starting", None);
    let replies = sender(shell_out);
    let control_replies = sender(control_out);
    let questions = sender(stdin_out);
    let answers = receiver(stdin_in);

    let queue = Arc::new(Queue::default());
    let control = Arc::new(Control::new(work.folder.clone()));
    start_session(
        &queue, &control, &publisher, replies, questions, answers, &work,
    )?;

    let mut shell = shell_in;
    let waiting = Arc::clone(&queue);
    tokio::spawn(async move {
        while let Some(request) = next(&mut shell).await {
            waiting.push(request);
        }
    });
    let mut requests = control_in;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let request = tokio::select! {
            request = next(&mut requests) => request,
            _ = terminated.recv() => None,
            () = parent_ended() => None,
        };
        let Some(request) = request else {
            control.end_all();
            return Ok(());
        };
        publisher.status("busy", Some(&request));
        let mut ends = false;
        let content = match request.kind() {
            "kernel_info_request" => Some(crate::session::kernel_info(&work)),
            "interrupt_request" => {
                let control = Arc::clone(&control);
                tokio::task::spawn_blocking(move || control.interrupt()).await?;
                Some(json!({ "status": "ok" }))
            }
            "shutdown_request" => {
                ends = true;
                control.end_all();
                Some(json!({ "status": "ok", "restart": request.content["restart"] }))
            }
            _ => None,
        };
        if let Some(content) = content {
            if ends {
                publisher.publish("shutdown_reply", content.clone(), Some(&request));
            }
            let _ = control_replies.send(request.reply(content));
        }
        publisher.status("idle", Some(&request));
        if ends {
            // The sockets write in the background, and do not tell when they have written.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(());
        }
    }
}

/// Starts the threads that read the output of cells, start evcxr, and answer requests.
fn start_session(
    queue: &Arc<Queue>,
    control: &Arc<Control>,
    publisher: &Publisher,
    replies: UnboundedSender<JupyterMessage>,
    questions: UnboundedSender<JupyterMessage>,
    answers: std::sync::mpsc::Receiver<Request>,
    work: &Arc<Work>,
) -> Result<()> {
    let pipes = Pipes::open()?;
    let answers = Mutex::new(answers);
    let asking = Arc::clone(control);
    let ask = move |request: &Request| {
        if request.content["allow_stdin"].as_bool() != Some(true) {
            return Answer::Refused;
        }
        let cell = asking.cell();
        let Ok(answers) = answers.lock() else {
            return Answer::Nobody;
        };
        // An answer to an earlier question that nobody waited for any more.
        while answers.try_recv().is_ok() {}
        let content = json!({ "prompt": "", "password": false });
        if questions
            .send(request.message("input_request", content))
            .is_err()
        {
            return Answer::Nobody;
        }
        loop {
            match answers.recv_timeout(Duration::from_millis(100)) {
                Ok(answer) => return Answer::Value(answer.text("value").to_owned()),
                Err(RecvTimeoutError::Timeout) if asking.runs(cell) => {}
                Err(_) => return Answer::Nobody,
            }
        }
    };
    let cells = Arc::clone(control);
    let (output, inherited) =
        Output::start(pipes, publisher.clone(), ask, move |runs| match runs {
            true => cells.cell_runs(),
            false => cells.cell_ended(),
        })?;
    let mut command = std::process::Command::new(&work.program);
    let numbers = inherited.each_ref().map(|fd| fd.as_raw_fd().to_string());
    command
        .env(child::CHANNELS, numbers.join(","))
        .env("CARGO_KERNEL", "1")
        .process_group(0);
    if let Some(how) = &work.backtraces {
        command.env("CARGO_KERNEL_BACKTRACE", how);
    }
    // SAFETY: between fork and exec only flags of descriptors are changed, by system calls.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherited {
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let (started, starting) = channel();
    let there = Arc::clone(work);
    std::thread::Builder::new()
        .name("evcxr".into())
        .spawn(move || {
            let _ = started.send(start_evcxr(command, &there));
        })?;
    let session = Session {
        queue: Arc::clone(queue),
        control: Arc::clone(control),
        output,
        publisher: publisher.clone(),
        replies,
        work: Arc::clone(work),
        starting,
        context: None,
        count: 0,
        history: Vec::new(),
    };
    std::thread::Builder::new()
        .name("session".into())
        // rust-analyzer and the parser of evcxr are recursive.
        .stack_size(64 << 20)
        .spawn(move || session.run())?;
    Ok(())
}

/// Returns the next request. Messages that cannot be read are reported and left out.
async fn next(socket: &mut RouterRecvConnection) -> Option<Request> {
    loop {
        let frames = socket.socket.recv().await.ok()?;
        let read = RawMessage::from_multipart(frames, &socket.mac)
            .map_err(|e| e.to_string())
            .and_then(Request::read);
        match read {
            Ok(request) => return Some(request),
            Err(error) => eprintln!("a message was ignored: {error}"),
        }
    }
}

/// Sends what is put into the queue.
fn sender(mut socket: RouterSendConnection) -> UnboundedSender<JupyterMessage> {
    let (queue, mut queued) = unbounded_channel::<JupyterMessage>();
    tokio::spawn(async move {
        while let Some(message) = queued.recv().await {
            if let Err(error) = socket.send(message).await {
                // The client may have gone.
                eprintln!("a reply could not be sent: {error}");
            }
        }
    });
    queue
}

/// Passes what a socket receives to a thread.
fn receiver(mut socket: RouterRecvConnection) -> std::sync::mpsc::Receiver<Request> {
    let (queue, queued) = channel();
    tokio::spawn(async move {
        while let Some(request) = next(&mut socket).await {
            if queue.send(request).is_err() {
                return;
            }
        }
    });
    queued
}

/// Returns when the program that started the kernel has ended, if it said that it watches over it
/// (`JPY_PARENT_PID`, as Jupyter does).
async fn parent_ended() {
    if std::env::var_os("JPY_PARENT_PID").is_none() {
        return std::future::pending().await;
    }
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
