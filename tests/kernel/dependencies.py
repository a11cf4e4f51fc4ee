"""A further `:dep` is built alone and linked beside ours; what cannot work is refused with the reason."""

import os

from session import OPEN, Session

with Session() as k:
    k.run(OPEN)
    k.run("let kept = vec![1, 2, 3];\nlet seed = Rng::new(3);")
    k.run(':dep itoa = "1"')
    assert k.run("itoa::Buffer::new().format(17u32).to_owned()").text == '"17"'
    assert k.run("kept.len()").text == "3"
    assert any("format" in m for m in k.complete("itoa::Buffer::new().for"))

    cell = k.run(':dep candle-nn = "0.11.1"', status="error")
    assert "candle-nn → candle-core" in cell.error and "gradients would be lost" in cell.error, cell.error
    cell = k.run(':dep invariances = { path = "/" }', status="error")
    assert os.path.dirname(os.getcwd()) in cell.error or "this kernel has the crate" in cell.error, cell.error
    cell = k.run(':dep invariances = { path = "..", features = ["nosuch"] }', status="error")
    assert "without the feature nosuch" in cell.error, cell.error
    assert k.run("kept.len()").text == "3"
