"""A further `:dep` is built alone and linked beside ours; what cannot work is refused with the
reason."""

import os

from checks import contains, equal, holds
from session import LONG, Session

with Session() as k:
    k.open()
    k.run("let kept = vec![1, 2, 3];\nlet seed = Rng::new(3);")
    k.run(':dep itoa = "1"', timeout=LONG)
    equal("a function of it", k.run("itoa::Buffer::new().format(17u32).to_owned()").text, '"17"')
    equal("a variable of an earlier cell", k.run("kept.len()").text, "3")
    found = k.complete("itoa::Buffer::new().for")["matches"]
    holds("its methods are completed", any("format" in match for match in found), found)

    cell = k.run(':dep candle-nn = "0.11.1"', status="error", timeout=LONG)
    contains("a second candle", cell.error, "candle-nn → candle-core", "gradients would be lost")
    cell = k.run(':dep invariances = { path = "/" }', status="error")
    ours = os.path.dirname(os.getcwd()) in cell.error or "this kernel has the crate" in cell.error
    holds("another folder", ours, cell.error)
    cell = k.run(':dep invariances = { path = "..", features = ["nosuch"] }', status="error")
    contains("an unknown feature", cell.error, "without the feature nosuch")
    equal("a variable of an earlier cell", k.run("kept.len()").text, "3")
    k.settle()
