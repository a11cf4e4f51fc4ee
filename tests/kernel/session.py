"""A session with a kernel, for the tests: sends requests as a notebook does and collects what
each of them causes.

    with Session() as k:
        assert k.run("1 + 1").text == "2"
        first, second = k.queue(["panic!();", "1 + 1"])
        k.wait(first, second)
        assert second.status == "aborted"

The kernel is that of a `kernel.json`, the first argument of the script. The
environment variable KERNEL_ARGV replaces it: a JSON list such as
`["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]`, or the path of another file.
"""

import json
import os
import subprocess
import sys
import time

import zmq
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

from cell import Cell, Request, shorten

SPEC, FOLDER = sys.argv[1:3]
OPEN = ':dep invariances = { path = ".." }\nuse invariances::prelude::*;'
# Seconds until a cell counts as one that never ends.
TIMEOUT = int(os.environ.get("KERNEL_TIMEOUT", 120))
# The first cell with the crate may have to build what is linked beside it.
LONG = 300


def kernelspec(given=None):
    """The content of the kernel's `kernel.json`: that of a file, or with a given list of words."""
    given = given or os.environ.get("KERNEL_ARGV") or SPEC
    spec = {"display_name": "The kernel under test", "language": "rust", "interrupt_mode": "message"}
    if given.lstrip().startswith("["):
        return spec | {"argv": json.loads(given)}
    with open(given) as file:
        return spec | json.load(file)


def write_kernelspec(folder, name):
    """Writes the kernelspec into `folder`; gives the environment in which Jupyter finds it there
    under `name`."""
    path = os.path.join(folder, "kernels", name)
    os.makedirs(path)
    with open(os.path.join(path, "kernel.json"), "w") as file:
        json.dump(kernelspec(), file)
    return os.environ | {"JUPYTER_PATH": str(folder)}


class Hangs(AssertionError):
    """What was waited for did not come."""


class Session:
    """A kernel and a client of it. `wait=False` returns before the kernel answers; call `ready`
    then."""

    def __init__(self, spec=None, wait=True):
        spec = spec or kernelspec()
        environment = {k: v for k, v in os.environ.items() if k != "RUST_BACKTRACE"}
        self.manager = KernelManager()
        self.manager._kernel_spec = KernelSpec(**spec)
        self.requests, self.strays = {}, []
        # Whether text of threads may come after the end of their cells.
        self.late_allowed = False
        self.opened = False
        self.began = time.monotonic()
        self.manager.start_kernel(cwd=FOLDER, env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        if wait:
            self.ready()

    def ready(self):
        self.client.wait_for_ready(timeout=TIMEOUT)
        channels = {
            name: getattr(self.client, f"{name}_channel")
            for name in ("iopub", "shell", "stdin", "control")
        }
        self.poller, self.channels = zmq.Poller(), {}
        for name, channel in channels.items():
            self.poller.register(channel.socket, zmq.POLLIN)
            self.channels[channel.socket] = name, channel
        print(f"{time.monotonic() - self.began:6.2f} s  the kernel starts", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(kill=kind is not None)

    def close(self, kill=False):
        """Ends the kernel: by a shutdown_request, or at once with the processes that it started."""
        started = [pid for pid, _ in children(self.pid)] if kill else []
        self.client.stop_channels()
        if self.manager.is_alive():
            self.manager.shutdown_kernel(now=kill)
        else:
            self.manager.cleanup_resources()
        for pid in started:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass

    def kill(self):
        """Kills the kernel's own process with SIGKILL and waits for its end."""
        os.kill(self.pid, 9)
        wait_for(lambda: not self.manager.is_alive(), "the kernel's process is still there")

    @property
    def pid(self):
        """The number of the kernel's process."""
        return self.manager.provisioner.pid if self.manager.provisioner else 0

    # Requests

    def start(
        self,
        code,
        stop_on_error=True,
        allow_stdin=False,
        answers=(),
        silent=False,
        store_history=True,
    ):
        """Sends an execute_request and does not wait. With `answers`, stdin is allowed and asked
        for them in order."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": {},
            "allow_stdin": allow_stdin or bool(answers),
            "stop_on_error": stop_on_error,
        }
        return self._send(
            "shell", "execute_request", content, lambda ident: Cell(code, ident, silent, answers)
        )

    def queue(self, codes, **options):
        """Sends several execute_requests at once."""
        return [self.start(code, **options) for code in codes]

    def run(self, code, status="ok", loud=False, timeout=TIMEOUT, **options):
        """Runs a cell to its end. It must have this status and, if `ok`, write nothing to stderr
        unless `loud`."""
        cell = self.start(code, **options)
        self.wait(cell, timeout=timeout)
        print(f"{cell.seconds:6.2f} s  {shorten(code.splitlines()[-1], 90)}", flush=True)
        assert cell.status == status, f"expected status {status}, found: {cell}"
        assert (
            status != "ok" or loud or not cell.stderr
        ), f"expected nothing on stderr, found: {cell}"
        return cell

    def open(self):
        """Runs the first cell of a notebook that uses the crate, once."""
        if not self.opened:
            self.run(OPEN, timeout=LONG)
            self.opened = True

    def ask(self, kind, content, timeout=TIMEOUT):
        """Sends a request of another type on the shell channel and returns the content of its
        reply."""
        request = self.send(kind, content)
        self.wait(request, timeout=timeout)
        return request.reply

    def send(self, kind, content):
        """Sends a request of another type on the shell channel and does not wait."""
        return self._send("shell", kind, content, lambda ident: Request(kind, ident))

    def complete(self, code, cursor=None):
        """The reply to a complete_request, at a position in code points or at the end."""
        cursor = len(code) if cursor is None else cursor
        return self.ask("complete_request", {"code": code, "cursor_pos": cursor})

    def inspect(self, code, cursor=None, detail=0):
        cursor = len(code) if cursor is None else cursor
        return self.ask(
            "inspect_request", {"code": code, "cursor_pos": cursor, "detail_level": detail}
        )

    def control(self, kind, content):
        """Sends a request on the control channel and waits for its reply."""
        request = self._send("control", kind, content, lambda ident: Request(kind, ident))
        self.until(lambda: request.replies, f"no reply to {kind}")
        return request.reply

    def interrupt(self):
        """Interrupts, as the stop button does."""
        if self.manager.kernel_spec.interrupt_mode == "message":
            return self.control("interrupt_request", {})
        self.manager.interrupt_kernel()

    def shutdown(self, restart=False):
        """Asks the kernel to end, and waits until it has ended."""
        reply = self.control("shutdown_request", {"restart": restart})
        wait_for(lambda: not self.manager.is_alive(), "the kernel's process is still there")
        return reply

    def restart(self):
        """Restarts the kernel, as the button of a notebook does."""
        self.began, self.opened = time.monotonic(), False
        self.requests.clear()
        self.manager.restart_kernel(now=False)
        self.ready()

    def _send(self, channel, kind, content, make):
        message = self.client.session.msg(kind, content)
        request = self.requests[message["header"]["msg_id"]] = make(message["header"]["msg_id"])
        getattr(self.client, f"{channel}_channel").send(message)
        return request

    # Messages

    def wait(self, *requests, timeout=TIMEOUT):
        """Waits for the ends of requests; each must have kept the protocol's rules."""
        self.until(
            lambda: all(r.done for r in requests), "a request did not end", timeout, requests
        )
        self._check(requests)

    def until(self, true, what, timeout=TIMEOUT, requests=()):
        """Reads messages until something is true."""
        end = time.monotonic() + timeout
        while not true():
            left = end - time.monotonic()
            if left < 0:
                seen = "\n".join(map(str, requests or list(self.requests.values())[-5:]))
                raise Hangs(f"{what} within {timeout} s. Seen:\n{shorten(seen, 8000)}")
            ready = self.poller.poll(1000 * min(left, 1.0))
            for socket, _ in ready:
                name, channel = self.channels[socket]
                self._take(name, channel.get_msg(timeout=1))
            assert ready or self.manager.is_alive(), f"the kernel ended: {what}"

    def _take(self, channel, message):
        parent = message["parent_header"]
        request = self.requests.get(parent.get("msg_id"))
        if request is None:
            # The client asked for kernel_info before it was ready; and a kernel may say alone that
            # it starts.
            if message["msg_type"] != "status" and parent.get("msg_type") != "kernel_info_request":
                self.strays.append(message)
        elif channel == "iopub":
            request.take(message)
        elif channel == "stdin":
            request.prompts.append(message["content"]["prompt"])
            if request.answers:
                self.client.input(request.answers.pop(0))
        else:
            request.answer(message)

    def settle(self):
        """Reads all that the kernel has published so far. Every request must have kept the
        protocol's rules, and no message may be without a request."""
        self.ask("kernel_info_request", {})
        shell = [
            r
            for r in self.requests.values()
            if r.kind not in ("interrupt_request", "shutdown_request")
        ]
        self._check(shell)
        assert (
            not self.strays
        ), f"expected a request for each message, found none for {shorten(self.strays)}"
        if not self.late_allowed:
            self.requests.clear()

    def _check(self, requests):
        for request in requests:
            faults = request.faults(self.late_allowed)
            assert not faults, f"{'; '.join(faults)}: {request}"


def wait_for(true, what, timeout=30):
    """Waits for something that no message tells."""
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise Hangs(f"{what() if callable(what) else what}, {timeout} s later")
        time.sleep(0.05)


def processes():
    """Every process that has not ended: number, number of its parent, and command line."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    found = []
    for line in listed.stdout.splitlines():
        pid, parent, state, *command = line.split(None, 3)
        if not state.startswith("Z"):
            found.append((int(pid), int(parent), command[0] if command else ""))
    return found


def children(pid):
    """The processes that a process started, and theirs: number and command line."""
    everything, found, new = processes(), [], [pid]
    while new:
        below = [(number, command) for number, parent, command in everything if parent in new]
        found += below
        new = [number for number, _ in below]
    return found


def alive(pids):
    """Which of these processes have not ended."""
    running = {number for number, _, _ in processes()}
    return [pid for pid in pids if pid in running]
