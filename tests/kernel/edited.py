"""A crate that was edited since the build: the first cell that uses it says so, with the command that builds it again."""

from session import OPEN, Session

with Session() as k:
    assert "changed since" not in k.run("1 + 1").printed["stdout"]
    said = k.run(OPEN + "\nlet seed = Rng::new(1);").printed["stdout"]
    assert "changed since the crate was built" in said and "cargo build --release" in said, said
    assert "edited.rs" in said, said
    assert "changed since" not in k.run("1 + 1").printed["stdout"]
