"""A session with the kernel, for the tests: runs cells as a notebook does and prints how long each took."""

import os
import sys
import time

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

PROGRAM, FOLDER = sys.argv[1:3]
OPEN = ':dep invariances = { path = ".." }\nuse invariances::prelude::*;'
ERROR = "application/vnd.invariances.error"


class Cell:
    """What a cell left: its status, what it printed, its results by type, and the seconds that it took."""

    def __init__(self):
        self.status, self.seconds, self.error = "", 0.0, ""
        self.printed = {"stdout": "", "stderr": ""}
        self.results = {}

    @property
    def text(self):
        return self.results.get("text/plain", "")


class Session:
    def __init__(self, program=PROGRAM):
        environment = {k: v for k, v in os.environ.items() if k != "RUST_BACKTRACE"}
        self.manager = KernelManager()
        self.manager._kernel_spec = KernelSpec(
            argv=[program, "kernel", "{connection_file}"],
            display_name="Rust (invariances)",
            language="rust",
            interrupt_mode="message",
        )
        start = time.time()
        self.manager.start_kernel(cwd=FOLDER, env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        print(f"{time.time() - start:6.2f} s  the kernel starts", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)

    def run(self, code, status="ok"):
        cell = Cell()

        def hook(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                cell.printed[content["name"]] += content["text"]
            elif message["msg_type"] in ("execute_result", "display_data"):
                cell.results.update(content["data"])
            elif message["msg_type"] == "error":
                cell.error += content["evalue"] + "\n" + "\n".join(content["traceback"])

        start = time.time()
        reply = self.client.execute_interactive(
            code, timeout=300, output_hook=hook, allow_stdin=False
        )
        cell.seconds = time.time() - start
        cell.status = reply["content"]["status"]
        print(f"{cell.seconds:6.2f} s  {code.splitlines()[-1][:90]}", flush=True)
        seen = f"{code}\n{cell.status} {cell.printed} {cell.results} {cell.error}"
        assert cell.status == status, seen
        if status == "ok" and ERROR not in cell.results:
            assert not cell.printed["stderr"], seen
        return cell

    def complete(self, code):
        reply = self.client.complete(code, len(code), reply=True, timeout=120)
        return reply["content"]["matches"]
