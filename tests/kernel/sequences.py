"""Random sequences of cells: every request must have its one reply and its own outputs, as a model
of the kernel says.

Usage: sequences.py SPEC FOLDER [SEQUENCES [SEED]] or sequences.py SPEC FOLDER --replay SEED.
The number of sequences is that of the environment variable KERNEL_SEQUENCES where none is given,
else 10. Sequence i has the seed SEED + i (SEED is 1 where none is given). The kernel is started
again after 50 sequences. A sequence that fails is printed with its seed; ends with status 0 if none
did.
"""

import os
import sys
import time
import traceback

from session import Session, shorten
from steps import LATE, NAP, sequence

RESTART = 50
MOST_FAILURES = 5


def send(k, part):
    """Sends the cells of a round at once."""
    return [
        k.start(step.code, stop_on_error=part.stop_on_error, answers=step.answers)
        for step in part.steps
    ]


def interrupt(k, cell, seconds):
    """Interrupts a cell some time after it began."""
    k.until(lambda: "busy" in cell.states, "the cell does not begin", requests=[cell])
    time.sleep(seconds)
    k.interrupt()


def check(step, cell):
    found, allowed = step.found(cell), step.allowed()
    expected = shorten(" or ".join(map(str, allowed)))
    assert found in allowed, f"{step.kind}: expected {expected}, found {shorten(found)} in {cell}"
    order = [kind for kind, _ in cell.outputs if kind != "stderr"]
    if step.kind == "mixed" and step.expected["status"] == "ok":
        wanted = ["stdout", "display_data", "stdout", "display_data", "execute_result"]
        # A thread's line may stand anywhere.
        late = LATE.search(cell.stdout)
        assert late or order == wanted, f"expected the outputs {wanted}, found {order} in {cell}"


def collect(k, model, cells):
    """Waits for the lines of threads, each of which must come once."""
    printed = lambda: "".join(cell.stdout for cell in cells)
    missing = lambda: [line for line in model.due if f"{line}\n" not in printed()]
    if missing():
        # Longer than a thread waits.
        cells.append(k.run(NAP.format(700)))
    k.until(lambda: not missing(), f"lines of threads are lost: {missing()}", timeout=20)
    for line in model.due | model.lost:
        times = printed().count(f"{line}\n")
        assert times <= 1, f"expected the line {line} of a thread once, found it {times} times"


def run(k, seed):
    """Runs a sequence; gives the number of its cells."""
    rounds, model = sequence(seed)
    cells = []
    for part in rounds:
        sent = send(k, part)
        cells += sent
        if part.interrupt is not None:
            interrupt(k, sent[0], part.interrupt)
        k.wait(*sent)
        for step, cell in zip(part.steps, sent):
            check(step, cell)
    collect(k, model, cells)
    k.settle()
    for cell in cells:
        for kind, content in cell.late:
            text = content["text"] if kind == "stream" else kind
            assert not LATE.sub(
                "", text
            ), f"expected only lines of threads after the end, found {cell.late} in {cell}"
    return len(cells)


def start():
    k = Session()
    k.late_allowed = True
    return k


def main():
    arguments = sys.argv[3:]
    if arguments[:1] == ["--replay"]:
        count, first = 1, int(arguments[1])
    else:
        count = int(arguments[0]) if arguments else int(os.environ.get("KERNEL_SEQUENCES", 10))
        first = int(arguments[1]) if len(arguments) > 1 else 1
    k, began, failed, cells, ran, fresh = None, time.monotonic(), [], 0, 0, first
    for seed in range(first, first + count):
        if k and seed - fresh >= RESTART:
            k.close()
            k = None
        if k is None:
            k, fresh = start(), seed
        at, ran = time.monotonic(), ran + 1
        try:
            number = run(k, seed)
            cells += number
            print(f"{time.monotonic() - at:6.2f} s  seed {seed}: {number} cells", flush=True)
        except Exception:
            traceback.print_exc()
            place = seed - fresh + 1
            print(f"FAILED: seed {seed}, sequence {place} of its kernel. To run it alone:", end=" ")
            print(f"--replay {seed}, with those before it: {place} {fresh}. The sequence:")
            print("\n".join(map(str, sequence(seed)[0])), flush=True)
            failed.append(seed)
            k.close(kill=True)
            k = None
            if len(failed) == MOST_FAILURES:
                break
    if k:
        k.close()
    seconds = time.monotonic() - began
    print(
        f"{ran} of {count} sequences from seed {first}: {len(failed)} failed {failed or ''}, "
        f"{cells} cells, {seconds:.0f} s, {seconds / max(ran, 1):.1f} s per sequence"
    )
    if failed:
        sys.exit(1)


main()
