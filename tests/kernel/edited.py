"""A crate that was edited since the build: the first cell says so, with the command that builds it
again.

The kernel is always that of the first argument, which has such a build.
"""

from checks import contains, lacks
from session import LONG, OPEN, SPEC, Session, kernelspec

with Session(kernelspec(SPEC)) as k:
    said = k.run("1 + 1", timeout=LONG).stdout
    contains(
        "the first cell",
        said,
        "changed since the crate was built",
        "cargo build --release",
        "edited.rs",
    )
    # The crate works all the same.
    said = k.run(OPEN + "\nlet seed = Rng::new(1);").stdout
    lacks("the next cell", said, "changed since")
    k.settle()
