"""Requests that wait behind others: what an error, an interrupt and `stop_on_error` do to them."""

import itertools
import os
import time

from cell import shorten
from checks import MINUTE, contains, equal, new_folder, run
from session import Session, alive, children, wait_for

FAILING = {
    "a `?` error": ('let lost: u32 = "<x>".parse()?;', "Error"),
    "a panic": ('panic!("on purpose");', "Panic"),
    "a compile error": ("nosuch();", "E0425"),
}
NAP = "std::thread::sleep(std::time::Duration::from_millis(10));"
# A minute, unless it is stopped.
LASTS = f'println!("started"); for _ in 0..6000 {{ {NAP} }}'


def reset(k):
    k.run("let mut ran = 0;")


def started(k, cell):
    k.until(
        lambda: "started" in cell.stdout, "the cell does not say that it started", requests=[cell]
    )


def errors_abort(k):
    """An error aborts what is queued: one error, the reply `error`, and no other cell runs."""
    for name, (code, ename) in FAILING.items():
        reset(k)
        cells = k.queue([code] + ["ran += 1;"] * 3)
        k.wait(*cells)
        equal(f"{name}: the replies", [c.status for c in cells], ["error"] + ["aborted"] * 3)
        equal(f"{name}: its name", cells[0].ename, ename)
        equal(f"{name}: how many queued cells ran", k.run("ran").text, "0")


def the_first_runs(k):
    """What came before the error keeps its effect, and the requests after the aborted ones run."""
    reset(k)
    cells = k.queue(["ran += 1;", 'println!("before"); panic!("on purpose");', "ran += 10;"])
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["ok", "error", "aborted"])
    equal(
        "what the failing cell printed",
        [o for o in cells[1].outputs if o[0] == "stdout"],
        [("stdout", "before\n")],
    )
    equal(
        "text comes before the error", [kind for kind, _ in cells[1].outputs], ["stdout", "error"]
    )
    k.run("ran += 100;")
    equal("what ran", k.run("ran").text, "101")


def without_stop_on_error(k):
    """With stop_on_error=false the queue goes on."""
    for name, (code, ename) in FAILING.items():
        reset(k)
        cells = k.queue([code] + ["ran += 1;"] * 3, stop_on_error=False)
        k.wait(*cells)
        equal(f"{name}: the replies", [c.status for c in cells], ["error"] + ["ok"] * 3)
        equal(f"{name}: its name", cells[0].ename, ename)
        equal(f"{name}: how many queued cells ran", k.run("ran").text, "3")


def others_are_answered(k):
    """Requests of other types that wait behind an error are answered."""
    cells = k.queue(['panic!("on purpose");', "1 + 1"])
    info = k.send("kernel_info_request", {})
    done = k.send("is_complete_request", {"code": "1 + 1"})
    k.wait(*cells, info, done)
    equal("replies of the cells", [c.status for c in cells], ["error", "aborted"])
    equal("kernel_info", info.status, "ok")
    equal("is_complete", done.status, "complete")


def counts(k):
    """Each cell that runs has the next number, which its result has too; a silent one has none."""
    first = k.run("1 + 1")
    silent = k.run("2 + 2", silent=True)
    second, third = k.run('panic!("on purpose");', status="error"), k.run("3 + 3")
    number = first.reply["execution_count"]
    equal(
        "numbers", [c.reply["execution_count"] for c in (second, third)], [number + 1, number + 2]
    )
    equal("number of the result", third.of("execute_result")[0]["execution_count"], number + 2)
    equal("outputs of the silent cell", silent.outputs, [])


def interrupt(k):
    """An interrupt stops the running cell and aborts the queue; the next request runs."""
    for code in (LASTS, 'println!("started"); while std::hint::black_box(true) {}'):
        marks = new_folder()
        made = f'std::fs::File::create("{marks}/ran").unwrap();'
        cells = k.queue([code, made, made])
        started(k, cells[0])
        k.interrupt()
        k.wait(*cells)
        equal("replies", [c.status for c in cells], ["error", "aborted", "aborted"])
        equal("name of the error", cells[0].ename, "Interrupted")
        equal("files of the queued cells", os.listdir(marks), [])
        equal("the next request", k.run("1 + 1").text, "2")
        k.run(made)
        equal("a file of a later cell", os.listdir(marks), ["ran"])


def interrupt_twice(k):
    """Two interrupts stop one cell, not the next."""
    cell = k.start(LASTS)
    started(k, cell)
    k.interrupt()
    k.interrupt()
    k.wait(cell)
    equal("name of the error", cell.ename, "Interrupted")
    equal("the next request", k.run("1 + 1").text, "2")


def interrupt_at_once(k):
    """An interrupt after a cell is said to be busy is for this cell, however early it comes."""
    delays = [0.0, 0.0, 0.0, 0.0, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1]
    for code, delay in itertools.product(["!sleep 601", MINUTE], delays):
        cell = k.start(code)
        k.until(lambda: "busy" in cell.states, "the cell is not begun", requests=[cell])
        time.sleep(delay)
        k.interrupt()
        k.wait(cell)
        equal(f"{shorten(code, 12)}: error, interrupted {delay} s later", cell.ename, "Interrupted")
    equal("the next request", k.run("1 + 1").text, "2")


def interrupt_idle(k):
    """An interrupt while nothing runs does nothing."""
    reset(k)
    equal("reply to the interrupt", k.interrupt()["status"], "ok")
    cells = k.queue(["ran += 1;"] * 2)
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["ok", "ok"])
    equal("what ran", k.run("ran").text, "2")


def interrupt_compilation(k):
    """An interrupt while a cell compiles keeps the variables, and the cell never runs."""
    reset(k)
    # The compiler itself counts, for many seconds.
    count = "{ let mut i = 0u64; while i < 300_000_000 { i += 1; } i }"
    long = f"#[allow(long_running_const_eval)]\nconst SLOW: u64 = {count};\n"
    before = {pid for pid, _ in children(k.pid)}
    cells = k.queue([long + 'println!("ran: {SLOW}");', "ran += 1;"])
    wait_for(
        lambda: [c for pid, c in children(k.pid) if pid not in before and "rustc" in c],
        "no compiler runs",
    )
    interrupted = time.monotonic()
    k.interrupt()
    k.wait(*cells)
    print(f"          it ended {time.monotonic() - interrupted:.1f} s after the interrupt")
    equal("replies", [c.status for c in cells], ["error", "aborted"])
    equal("name of the error", cells[0].ename, "Interrupted")
    equal("what the cell printed", cells[0].stdout, "")
    equal("what ran", k.run("ran").text, "0")
    cell = k.run("SLOW", status="error")
    contains("the constant of the interrupted cell is not there", cell.error, "SLOW", "E0425")


def interrupt_at_the_start():
    """An interrupt while the kernel still starts stops the cell that waits for it."""
    with Session() as k:
        cell = k.start('println!("ran"); std::thread::sleep(std::time::Duration::from_secs(60));')
        k.until(lambda: "busy" in cell.states, "the cell is not begun", requests=[cell])
        k.interrupt()
        k.wait(cell)
        equal("name of the error", cell.ename, "Interrupted")
        equal("the next request", k.run("1 + 1").text, "2")


def a_command_is_interrupted(k):
    """A program that a line with `!` runs ends with the interrupt; variables are kept."""
    k.run("let kept = 5;")
    cell = k.start("!sleep 600; echo done")
    sleeping = lambda: [pid for pid, command in children(k.pid) if command == "sleep 600"]
    wait_for(sleeping, "the program does not run")
    program = sleeping()
    k.interrupt()
    k.wait(cell)
    equal("name of the error", cell.ename, "Interrupted")
    wait_for(lambda: not alive(program), "the program still runs")
    equal("variables", k.run("kept").text, "5")


def a_child_is_interrupted(k):
    """A cell that waits for another program is interrupted, and that program ends."""
    cell = k.start(
        'println!("started"); std::process::Command::new("sleep").arg("61").status().unwrap();'
    )
    started(k, cell)
    sleeping = lambda: [pid for pid, command in children(k.pid) if command == "sleep 61"]
    wait_for(sleeping, "the program does not run")
    program = sleeping()
    k.interrupt()
    k.wait(cell)
    equal("name of the error", cell.ename, "Interrupted")
    wait_for(lambda: not alive(program), "the program still runs")
    print("          the program ended")
    equal("the next request", k.run("1 + 1").text, "2")


run(
    errors_abort,
    the_first_runs,
    without_stop_on_error,
    others_are_answered,
    counts,
    interrupt,
    interrupt_twice,
    interrupt_at_once,
    interrupt_idle,
    interrupt_compilation,
    interrupt_at_the_start,
    a_command_is_interrupted,
    a_child_is_interrupted,
)
