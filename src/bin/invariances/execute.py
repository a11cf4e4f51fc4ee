"""Executes one notebook and says so line by line.

Usage: python -c <this> NOTEBOOK KERNEL, started by `invariances run`.

Each line of standard output is one JSON object with the key "event"; the last one holds the executed notebook.
Standard error belongs to the kernel. Standard input is a lifeline: at its end the kernel is stopped and nothing is given.
"""

import asyncio
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

# The kernel inherits file 1: keep it for ourselves, so that a kernel's print cannot end up among the events.
events = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def say(event, **values):
    events.write(json.dumps({"event": event, **values}) + "\n")
    events.flush()


try:
    import nbformat
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
except ImportError as error:
    say("broken", message=str(error))
    sys.exit(1)

DISPLAY_NAME = "Rust (invariances)"


def first_line(source):
    """The line that says most about a cell: its first that is not a comment."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith(("//", "#"))]
    return (code or lines or [""])[0]


def blamed_line(source, message):
    """The number and text of the line that a message points to; of the first line where it names none."""
    lines = source.splitlines()
    message = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", message)
    # The compiler's messages quote lines of the cell with their numbers.
    for quoted in re.finditer(r"^ *(\d+) │ (.*)$", message, re.MULTILINE):
        number = int(quoted.group(1))
        if 0 < number <= len(lines) and lines[number - 1].strip() == quoted.group(2).strip():
            return number, lines[number - 1].strip()
    # A panic is told with its line; `?` can only have failed where it stands.
    told = re.search(r"^ *in: (.*)$", message, re.MULTILINE)
    for found in (
        [i for i, line in enumerate(lines, 1) if told and line.strip() == told.group(1).strip()],
        [i for i, line in enumerate(lines, 1) if message.startswith("error: ") and "?" in line],
        [i for i, line in enumerate(lines, 1) if line.strip() == first_line(source)],
    ):
        if len(found) == 1:
            return found[0], lines[found[0] - 1].strip()
    return 1, first_line(source)


class Client(NotebookClient):
    """Says what a cell prints when it prints it, not when the cell has ended."""

    def process_message(self, msg, cell, cell_index):
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            say("output", text=content.get("text", ""))
        elif kind in ("display_data", "execute_result", "update_display_data"):
            data = content.get("data", {})
            display_id = (content.get("transient") or {}).get("display_id") or ""
            if display_id.startswith("progress-"):
                # The last state of a progress bar is text without a bar.
                text = data.get("text/plain", "").strip()
                say("progress", id=display_id, text=text, ended="text/html" not in data)
            elif kind != "update_display_data":
                say("display", types=sorted(data))
        return super().process_message(msg, cell, cell_index)

    def output(self, outs, msg, display_id, cell_index):
        """Adds text to the output before it: nbclient's own option would move text across displays."""
        before = []
        for output in reversed(outs):
            if output.output_type != "stream":
                break
            before.append(output)
        if msg["msg_type"] == "stream" and before and not self.clear_before_next_output:
            name, text = msg["content"]["name"], msg["content"]["text"]
            same = [output for output in before if output.name == name]
            if same:
                same[0].text += text
                return same[0]
            if name == "stdout":
                # Both streams arrive in any order, but two equal runs should give equal notebooks.
                outs.insert(-1, nbformat.v4.new_output("stream", name=name, text=text))
                return outs[-2]
        return super().output(outs, msg, display_id, cell_index)


def without_overwritten(cell):
    """Removes from a cell's text what a carriage return overwrites on a terminal."""
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?=[^\n])", "", output.text)


async def execute(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        # Execution times would make two equal runs differ.
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata["kernelspec"] = {"name": kernel, "display_name": DISPLAY_NAME, "language": "rust"}
    numbers = {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip():
            numbers[index] = len(numbers) + 1
    say("start", cells=len(numbers))

    began = {}
    current = {"index": None}

    def on_execute(cell, cell_index):
        current["index"] = cell_index
        began[cell_index] = time.monotonic()
        say("cell", number=numbers[cell_index], line=first_line(cell.source))

    def on_executed(cell, cell_index, execute_reply):
        without_overwritten(cell)
        say("done", number=numbers[cell_index], seconds=time.monotonic() - began[cell_index])

    manager = AsyncKernelManager(kernel_name=kernel)
    client = Client(
        notebook,
        km=manager,
        timeout=None,
        record_timing=False,
        on_cell_execute=on_execute,
        on_cell_executed=on_executed,
    )
    client.reset_execution_trackers()

    this = asyncio.current_task()
    loop = asyncio.get_running_loop()
    let_go = threading.Event()

    def lifeline():
        while os.read(0, 4096):
            pass
        let_go.set()
        loop.call_soon_threadsafe(this.cancel)

    threading.Thread(target=lifeline, daemon=True).start()

    session = None
    try:
        await manager.start_kernel(cwd=str(path.parent))
        session = getattr(manager.provisioner, "pid", None)
        client.kc = manager.client()
        client.kc.start_channels()
        await client.kc.wait_for_ready(timeout=600)
        client.kc.allow_stdin = False
        info = await client.async_wait_for_reply(client.kc.kernel_info())
        if info is not None:
            notebook.metadata["language_info"] = info["content"]["language_info"]
        say("kernel", seconds=time.monotonic() - START)
        for index, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        await manager.shutdown_kernel()
    except CellExecutionError as error:
        index = current["index"]
        cell = notebook.cells[index]
        outputs = [o for o in cell.outputs if o.output_type == "error"]
        text = "\n".join(line for output in outputs for line in output.traceback)
        if not text.strip():
            text = f"{error.ename}: {error.evalue}"
        number, line = blamed_line(cell.source, text)
        say("failed", number=numbers[index], line_number=number, line=line, message=text)
        await manager.shutdown_kernel()
    except (DeadKernelError, RuntimeError, TimeoutError, asyncio.CancelledError) as error:
        if let_go.is_set():
            kill(session)
            # At once: an exit in order would wait for the kernel's threads and channels.
            os._exit(130)
        index = current["index"]
        if index is None:
            say("no_kernel", message=str(error) or type(error).__name__)
        else:
            cell = notebook.cells[index]
            message = "The kernel died while it executed this cell; every variable is lost."
            cell.outputs.append(
                nbformat.v4.new_output("error", ename="DeadKernelError", evalue=message, traceback=[message])
            )
            number, line = blamed_line(cell.source, "")
            say("failed", number=numbers[index], line_number=number, line=line, message=message)
    finally:
        # What a kernel started dies with it: a cell's process would go on computing for nobody.
        kill(session)
    say("notebook", content=nbformat.writes(notebook) + "\n")
    # The lifeline still reads standard input, and a process that waits for it would never end.
    events.flush()
    os._exit(0)


def kill(session):
    """Ends every process of a kernel, which Jupyter starts as the leader of a group of its own."""
    if session:
        try:
            os.killpg(session, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


START = time.monotonic()
asyncio.run(execute(Path(sys.argv[1]), sys.argv[2]))
