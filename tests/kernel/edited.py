"""A crate that was edited since the build: the first cell that uses it says so, with the command
that builds it again.

The kernel is always the program of the first argument, which has such a build beside it.
"""

from checks import contains, lacks
from session import LONG, OPEN, PROGRAM, Session

spec = {
    "argv": [PROGRAM, "kernel", "{connection_file}"],
    "display_name": "The kernel beside an edited crate",
    "language": "rust",
    "interrupt_mode": "message",
}
with Session(spec) as k:
    lacks("a cell without the crate", k.run("1 + 1").stdout, "changed since")
    said = k.run(OPEN + "\nlet seed = Rng::new(1);", timeout=LONG).stdout
    contains(
        "the first cell with it",
        said,
        "changed since the crate was built",
        "cargo build --release",
        "edited.rs",
    )
    lacks("the next cell", k.run("1 + 1").stdout, "changed since")
    k.settle()
