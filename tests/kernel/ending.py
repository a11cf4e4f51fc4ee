"""How a cell's process and the kernel end: each says what happened in one line, and the next cell
works."""

import json
import os
import re
import signal
import subprocess
import sys

from checks import KILL, MINUTE, contains, equal, holds, lacks, run
from session import FOLDER, SPEC, Session, alive, children, wait_for

ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


def explained(cell, ename, *parts):
    """Whether an error says what happened in its first line, without addresses and without a
    backtrace."""
    said = cell.error + cell.stderr
    equal("name", cell.ename, ename)
    holds(
        "one line says what happened",
        any(part in cell.evalue.split("\n")[0] for part in parts),
        cell.evalue,
    )
    holds("no address", not ADDRESS.search(said), said)
    lacks("no backtrace", said, "stack backtrace", "RUST_BACKTRACE", "/rustc/")


def a_panic(k):
    """A panic is one line with the user's line; other variables are kept."""
    k.run("let kept = vec![1, 2, 3];")
    cell = k.run('println!("before");\nlet lost = 1;\nkept[7]', status="error")
    explained(cell, "Panic", "index out of bounds: the len is 3 but the index is 7")
    contains("the user's line", cell.error, "kept[7]")
    equal("stdout and stderr", (cell.stdout, cell.stderr), ("before\n", ""))
    equal("variables", k.run("kept.len()").text, "3")
    equal("a variable of the failed cell", k.run("lost", status="error").ename, "E0425")
    # In a function of an earlier cell.
    k.run('fn first(list: &[u8]) -> u8 {\n    *list.first().expect("an empty list")\n}')
    cell = k.run("let zero = first(&[]);\nzero", status="error")
    explained(cell, "Panic", "an empty list")
    cell = k.run(
        'std::thread::spawn(|| { panic!("in a thread"); }).join().unwrap_err();\n1 + 1', loud=True
    )
    equal("a panic of a thread that is caught", cell.text, "2")
    equal("variables", k.run("kept.len()").text, "3")


def ends(k, code, *parts):
    """A cell that ends its process: what happened, that variables are lost, and that the next cell
    works."""
    k.run("let kept = 3;")
    cells = k.queue([f'println!("before");\n{code}', "1 + 1"])
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["error", "aborted"])
    explained(cells[0], "ProcessEnded", *parts)
    contains("what it says of variables", cells[0].error.lower(), "variable", "lost")
    equal("text before it", cells[0].stdout, "before\n")
    line = code.splitlines()[-1]
    print(f"          it {'shows' if line in cells[0].error else 'does not show'} the user's line")
    cell = k.run("1 + 1")
    equal("the next cell", (cell.text, cell.stdout), ("2", ""))
    equal("a variable", k.run("kept", status="error").ename, "E0425")
    return cells[0]


def segmentation_fault(k):
    """A segmentation fault."""
    ends(k, "unsafe { *(std::hint::black_box(8usize) as *mut u8) = 1; }", "SIGSEGV")


def abort(k):
    """An abort."""
    ends(k, "std::process::abort();", "SIGABRT")


def process_exit(k):
    """process::exit, with a status and without."""
    contains("the status", ends(k, "std::process::exit(3);", "exit").evalue, "3")
    ends(k, "std::process::exit(0);", "exit")


def out_of_memory(k):
    """Memory runs out: addresses are limited to 16 GiB, of which none is touched."""
    limit = """{
    #[repr(C)] struct Limit { soft: u64, hard: u64 }
    unsafe extern "C" { fn setrlimit(resource: i32, limit: *const Limit) -> i32; }
    let addresses = if cfg!(target_os = "linux") { 9 } else { 5 };
    assert_eq!(unsafe { setrlimit(addresses, &Limit { soft: 16 << 30, hard: 16 << 30 }) }, 0);
};
std::hint::black_box(vec![0u8; 32 << 30]);"""
    cell = ends(k, limit, "SIGABRT", "memory")
    contains("it says that memory ran out", (cell.error + cell.stderr).lower(), "memory")


def stack_overflow(k):
    """A stack overflow, in a thread whose stack is small."""
    code = """fn deep(n: u64) -> u64 {
    let row = std::hint::black_box([n; 512]);
    if n == u64::MAX { 0 } else { deep(n + 1) ^ std::hint::black_box(row)[0] }
}
let thread = std::thread::Builder::new().stack_size(1 << 20);
thread.spawn(|| deep(std::hint::black_box(0))).unwrap().join().unwrap();"""
    ends(k, code, "stack", "SIGSEGV", "SIGABRT")


def killed(k):
    """SIGKILL, by the cell itself, and from outside while it runs."""
    ends(k, KILL, "SIGKILL")
    cell = k.start(f'println!("{{}}", std::process::id()); {MINUTE}')
    k.until(lambda: cell.stdout.endswith("\n"), "the cell does not start", requests=[cell])
    os.kill(int(cell.stdout), signal.SIGKILL)
    k.wait(cell)
    explained(cell, "ProcessEnded", "SIGKILL")
    equal("the next cell", k.run("1 + 1").text, "2")


def killed_while_idle(k):
    """SIGKILL while no cell runs: at most the next cell fails, and says why."""
    os.kill(int(k.run("std::process::id()").text), signal.SIGKILL)
    cell = k.start("1 + 1")
    k.wait(cell)
    if cell.status == "error":
        explained(cell, "ProcessEnded", "SIGKILL")
    else:
        equal("the next cell", cell.text, "2")
    equal("the cell after that", k.run("1 + 1").text, "2")


def work_folder(k):
    """The folder in which cells are compiled."""
    folder = k.run(":last_compile_dir").text.strip().strip('"')
    assert os.path.isdir(folder), f"expected the folder of :last_compile_dir, found {folder!r}"
    return folder


def everything(k):
    """The processes of a kernel: its own, of cells, and a program that a cell started and did not
    wait for."""
    k.run('std::process::Command::new("sleep").arg("600").spawn().unwrap();')
    wait_for(
        lambda: any(command == "sleep 600" for _, command in children(k.pid)),
        "the program does not run",
    )
    return [k.pid, *(pid for pid, _ in children(k.pid))]


def shut_down(restart, running):
    with Session() as k:
        k.run("let kept = 3;")
        folder, pids = work_folder(k), everything(k)
        if running:
            cell = k.start(
                'println!("started"); std::thread::sleep(std::time::Duration::from_secs(60));'
            )
            k.until(lambda: cell.stdout, "the cell does not start", requests=[cell])
        reply = k.shutdown(restart)
        equal("reply", (reply["status"], reply["restart"]), ("ok", restart))
        ended(pids, folder)


def ended(pids, folder, timeout=30):
    """Waits until processes have ended and the folder of their kernel is gone."""
    try:
        wait_for(
            lambda: not alive(pids),
            lambda: f"of {len(pids)} processes still run {alive(pids)}",
            timeout,
        )
    except AssertionError:
        for pid in alive(pids):
            os.kill(pid, signal.SIGKILL)
        raise
    wait_for(lambda: not os.path.exists(folder), f"{folder} is still there")
    print(f"          {len(pids)} processes ended, and the folder is gone")


def shutdown():
    """A shutdown request ends all processes and removes the work folder, while a cell runs too."""
    shut_down(restart=False, running=False)
    shut_down(restart=False, running=True)


def shutdown_to_restart():
    """So does a shutdown request that a restart begins with."""
    shut_down(restart=True, running=False)


def kernel_killed():
    """When the kernel itself is killed, the process of cells ends, and the next kernel removes its
    folder."""
    with Session() as k:
        k.run("let kept = 3;")
        folder, pids = work_folder(k), [k.pid, *(pid for pid, _ in children(k.pid))]
        k.kill()
        wait_for(
            lambda: not alive(pids), lambda: f"of {len(pids)} processes still run {alive(pids)}"
        )
    with Session() as k:
        equal("a cell of the next kernel", k.run("1 + 1").text, "2")
        ended(pids, folder)


def restart():
    """A restarted kernel has no variables and works."""
    with Session() as k:
        k.run("let kept = 3;")
        k.restart()
        equal("a variable", k.run("kept", status="error").ename, "E0425")
        cell = k.run("1 + 1")
        equal(
            "result and number of its second cell",
            (cell.text, cell.reply["execution_count"]),
            ("2", 2),
        )


def parent_dies():
    """The kernel ends, with all its processes and its folder, when the process that started it is
    killed."""
    parent = subprocess.Popen(
        [sys.executable, __file__, SPEC, FOLDER, "--start"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in parent.stdout:
        if line.startswith("{"):
            break
        print(f"    {line}", end="")
    started = json.loads(line)
    equal("the kernel's processes run", alive(started["pids"]), started["pids"])
    parent.kill()
    parent.wait()
    ended(started["pids"], started["folder"], timeout=60)


def start():
    """Starts a kernel for `parent_dies`, prints its processes, and waits to be killed."""
    k = Session()
    print(json.dumps({"folder": work_folder(k), "pids": everything(k)}), flush=True)
    sys.stdin.read()


if sys.argv[3:] == ["--start"]:
    start()
else:
    run(
        a_panic,
        segmentation_fault,
        abort,
        process_exit,
        out_of_memory,
        stack_overflow,
        killed,
        killed_while_idle,
        shutdown,
        shutdown_to_restart,
        kernel_killed,
        restart,
        parent_dies,
    )
