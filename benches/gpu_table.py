#!/usr/bin/env python3
"""A Markdown table of the results of `benches/gpu.rs` and of `benches/gpu.py`, side by side.

    python3 benches/gpu_table.py OURS PYTORCH

Both files contain lines of name, mode, median and mean in ms, separated by tabs; other lines are ignored. A file may be
missing or end early: the table then has the rows that are there. Names that start with `memory/` are in MiB.
"""

import math
import re
import sys


def results(path):
    """(median, mean) by (name, mode), in the order of the file."""
    found = {}
    try:
        text = open(path, errors="replace").read()
    except OSError:
        return found
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 4:
            continue
        try:
            values = float(fields[2]), float(fields[3])
        except ValueError:
            continue
        found[fields[0].strip(), fields[1].strip()] = values
    return found


def lookup(found, name, mode):
    """The result of this name. A variant of a step (`step-fused-adam`) falls back to the plain step."""
    if (name, mode) in found:
        return found[name, mode], ""
    plain = re.sub(r"/(step|sample)-[^/]+", r"/\1", name)
    return found.get((plain, mode)), "*"


def text(value, digits):
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def ratio(ours, theirs):
    return "–" if not ours or not theirs else text(ours / theirs, 2)


def tables(ours, theirs):
    keys = list(dict.fromkeys([*ours, *theirs]))
    # All modes of a name together, names in the order in which they were measured.
    order = list(dict.fromkeys(name for name, _ in keys))
    keys.sort(key=lambda key: order.index(key[0]))
    lines, noted = [], False
    times = [key for key in keys if not key[0].startswith("memory/")]
    if times:
        lines += [
            "| name | mode | ours, ms | PyTorch, ms | ratio | ours in a row, ms | PyTorch in a row, ms | ratio |",
            "| --- | --- | --: | --: | --: | --: | --: | --: |",
        ]
    for name, mode in times:
        (a, mark_a), (b, mark_b) = lookup(ours, name, mode), lookup(theirs, name, mode)
        (a, am), (b, bm) = a or (None, None), b or (None, None)
        cells = []
        for x, y in ((a, b), (am, bm)):
            mark_x, mark_y = mark_a if x is not None else "", mark_b if y is not None else ""
            noted = noted or bool(mark_x or mark_y)
            cells += [text(x, 3) + mark_x, text(y, 3) + mark_y, ratio(x, y)]
        lines.append(f"| {name} | {mode} | {' | '.join(cells)} |")
    if times:
        note = "Medians of single steps; means of steps in a row. Ratio: ours / PyTorch; below 1, ours is faster."
        lines += ["", note + (" *: the plain step, as this side has no such variant." if noted else "")]
    memory = [key for key in keys if key[0].startswith("memory/")]
    if memory:
        lines += [
            "",
            "| peak memory | mode | ours, MiB | PyTorch allocated, MiB | PyTorch reserved, MiB |",
            "| --- | --- | --: | --: | --: |",
        ]
    for name, mode in memory:
        (a, _), (b, _) = lookup(ours, name, mode), lookup(theirs, name, mode)
        (a, _), (b, reserved) = a or (None, None), b or (None, None)
        lines.append(f"| {name.removeprefix('memory/')} | {mode} | {text(a, 0)} | {text(b, 0)} | {text(reserved, 0)} |")
    return lines


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lines = tables(results(sys.argv[1]), results(sys.argv[2]))
    print("\n".join(lines) if lines else "No measurements.")


if __name__ == "__main__":
    main()
