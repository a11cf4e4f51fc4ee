"""A crate that was edited since the build: the first cell that uses it says so, with the command
that builds it again.

The kernel is always that of the first argument, which has such a build.
"""

from checks import contains, lacks
from session import LONG, OPEN, SPEC, Session, kernelspec

with Session(kernelspec(SPEC)) as k:
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
