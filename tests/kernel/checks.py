"""Runs the checks of a script, each with a sentence that says what it checks.

Usage of a script: SCRIPT SPEC FOLDER [CHECK …], with SPEC the `kernel.json` of a kernel, FOLDER
the folder that a notebook would be in, and the names of the checks to run; without them, all. A
check that fails ends its kernel; the next one gets a new kernel. The script ends with status 0 if
every check held.
"""

import base64
import inspect
import json
import struct
import sys
import tempfile
import time
import traceback

from session import Session, shorten

# Removed when the script ends.
FOLDERS = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
FRAME = "application/vnd.cargo-kernel+json"
# Statements of Rust: the cell sleeps for a minute; its process kills itself.
MINUTE = "std::thread::sleep(std::time::Duration::from_secs(60));"
KILL = (
    'std::process::Command::new("kill").args(["-9", &std::process::id().to_string()])'
    f".status().unwrap(); {MINUTE}"
)
# A figure's builder and a table of the crate, as expressions.
FIGURE = 'Chart::new("Loss").line("train", &[0f64, 1.0, 2.0], &[3f64, 2.0, 1.5])'
TABLE = 'Table::new(["layer", "share"]).row(["fc6", "0.41"]).row(["fc8", "0.82"])'


def run(*checks, make=Session):
    """Runs checks: functions of a session, which they share, or of nothing."""
    chosen = [check for check in checks if not sys.argv[3:] or check.__name__ in sys.argv[3:]]
    if not chosen:
        sys.exit(f"expected one of {[check.__name__ for check in checks]}, found {sys.argv[3:]}")
    kernel, failed = None, []
    for check in chosen:
        print(f"--- {check.__name__}: {inspect.getdoc(check)}", flush=True)
        began = time.monotonic()
        try:
            if inspect.signature(check).parameters:
                kernel = kernel or make()
                check(kernel)
                kernel.settle()
            else:
                check()
            print(f"{time.monotonic() - began:6.2f} s  {check.__name__} holds", flush=True)
        except Exception:
            traceback.print_exc()
            print(f"        FAILED: {check.__name__}", flush=True)
            failed.append(check.__name__)
            if kernel:
                kernel.close(kill=True)
            kernel = None
    if kernel:
        kernel.close()
    if failed:
        sys.exit(f"{len(failed)} of {len(chosen)} checks failed: {', '.join(failed)}")
    print(f"{len(chosen)} checks held")


def equal(what, found, expected):
    assert (
        found == expected
    ), f"{what}: expected {shorten(repr(expected))}, found {shorten(repr(found))}"
    print(f"          {what}", flush=True)


def holds(what, condition, found):
    assert condition, f"{what}: found {shorten(str(found))}"
    print(f"          {what}", flush=True)


def contains(what, text, *parts):
    for part in parts:
        assert part in text, f"{what}: expected {part!r}, found {shorten(repr(text))}"
    print(f"          {what}", flush=True)


def lacks(what, text, *parts):
    for part in parts:
        assert part not in text, f"{what}: expected no {part!r}, found {shorten(repr(text))}"
    print(f"          {what}", flush=True)


def literal(text):
    """Rust's literal of a text."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'


def new_folder():
    """An empty folder, for files by which a cell and a check wait for each other."""
    return tempfile.mkdtemp(dir=FOLDERS.name)


def until_there(path):
    """A statement of Rust that waits until a file exists."""
    nap = "std::thread::sleep(std::time::Duration::from_millis(5));"
    return f"while !std::path::Path::new({literal(path)}).exists() {{ {nap} }}"


def write(text):
    """A statement of Rust that writes a text to stdout at once and flushes it."""
    return (
        "{ let mut out = std::io::stdout().lock(); "
        f"std::io::Write::write_all(&mut out, {literal(text)}.as_bytes()).unwrap(); "
        "std::io::Write::flush(&mut out).unwrap(); };"
    )


def frame(kind, content):
    """A statement of Rust that writes a message to the kernel, as the crate writes its displays."""
    line = json.dumps({"msg_type": kind, "content": content}, ensure_ascii=False)
    return write(f"EVCXR_BEGIN_CONTENT {FRAME}\n{line}\nEVCXR_END_CONTENT\n")


def display(data, ident=None, update=False):
    """A statement of Rust that displays data by type, under a display_id or as its update."""
    content = {"data": data, "metadata": {}, "transient": {"display_id": ident} if ident else {}}
    return frame("update_display_data" if update else "display_data", content)


def is_png(data, least=40):
    """Whether a value in base64 is a PNG of at least this width and height."""
    picture = base64.b64decode(data)
    return (
        picture[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", picture[16:24])) >= least
    )
