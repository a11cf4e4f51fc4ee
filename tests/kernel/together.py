"""Several kernels at once: each has its variables and its folder, and none removes a folder that is
in use."""

import fcntl
import os
import shutil
import subprocess
import sys
import time

from checks import contains, equal, run
from session import LONG, OPEN, Session, wait_for


def compile_folder(k):
    folder = k.run(":last_compile_dir").text.strip().strip('"')
    assert os.path.isdir(folder), f"expected the folder of :last_compile_dir, found {folder!r}"
    return folder


def work_folder(k):
    """The folder of a kernel, which has a file that the kernel locks; and the name of that file."""
    folder = compile_folder(k)
    while os.path.dirname(folder) != folder:
        locks = [
            name for name in os.listdir(folder) if name.endswith(".lock") and name != "Cargo.lock"
        ]
        if locks and is_locked(os.path.join(folder, locks[0])):
            return folder, locks[0]
        folder = os.path.dirname(folder)
    raise AssertionError(
        "expected a locked file in a folder above that of :last_compile_dir, found none"
    )


def is_locked(path):
    with open(path, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def two():
    """Two kernels have variables, folders and interrupts of their own."""
    with Session() as one, Session() as other:
        one.run("let name = 1;")
        other.run('let name = "two".to_owned();')
        equal("a variable of one", one.run("name + 1").text, "2")
        equal("and of the other", other.run("name.len()").text, "3")
        assert compile_folder(one) != compile_folder(other), compile_folder(one)
        cells = [
            k.start('println!("started"); std::thread::sleep(std::time::Duration::from_secs(3));')
            for k in (one, other)
        ]
        for k, cell in zip((one, other), cells):
            k.until(lambda: cell.stdout, "the cell does not start", requests=[cell])
        one.interrupt()
        one.wait(cells[0])
        other.wait(cells[1])
        equal("one is interrupted, the other is not", [c.status for c in cells], ["error", "ok"])
        equal("a variable of the other", other.run("name.len()").text, "3")


def with_the_crate():
    """Two kernels open the crate at the same time."""
    with Session() as one, Session() as other:
        cells = [k.start(OPEN + "\nlet seed = Rng::new(3);") for k in (one, other)]
        for k, cell in zip((one, other), cells):
            k.wait(cell, timeout=LONG)
        equal("both can", [c.status for c in cells], ["ok", "ok"])


def at_the_same_time():
    """Four kernels that start at the same time on one cache do not remove each other's folders."""
    kernels = [Session(wait=False) for _ in range(4)]
    try:
        for k in kernels:
            k.ready()
        cells = [k.start("1 + 1") for k in kernels]
        for k, cell in zip(kernels, cells):
            k.wait(cell)
        equal("results", [c.text for c in cells], ["2"] * 4)
        folders = [work_folder(k)[0] for k in kernels]
        equal("number of folders", len(set(folders)), 4)
        # One that starts later removes none of them.
        with Session() as later:
            later.run("1 + 1")
            equal(
                "folders that are there", [os.path.isdir(folder) for folder in folders], [True] * 4
            )
        for k in kernels:
            equal(
                "a cell that compiles",
                k.run("fn double(x: u8) -> u8 { 2 * x }\ndouble(2)").text,
                "4",
            )
    finally:
        for k in kernels:
            k.close()


def of_another_host():
    """A folder of another host is kept, whatever this host sees of its lock; one of this host that
    nothing locks is removed by the next kernel."""
    with Session() as k:
        work, lock = work_folder(k)
        with open(os.path.join(work, "host")) as file:
            this = file.read()
    wait_for(lambda: not os.path.exists(work), f"{work} is still there")
    cache, prefix = os.path.dirname(work), os.path.basename(work).split("-")[0]
    left = {}
    for host in (this, f"not-{this}"):
        folder = os.path.join(cache, f"{prefix}-left.{time.time_ns():x}")
        os.mkdir(folder)
        for name, content in (("host", host), (lock, "")):
            with open(os.path.join(folder, name), "w") as file:
                file.write(content)
        left[host] = folder
    # A process that no Jupyter knows holds the lock of this host's folder.
    held = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    path = os.path.join(left[this], lock)
    holder = subprocess.Popen(
        [sys.executable, "-c", held, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        contains("the lock", holder.stdout.readline(), "held")
        with Session() as k:
            equal("a cell beside it", k.run("1 + 1").text, "2")
            equal("both folders", [os.path.isdir(f) for f in left.values()], [True, True])
    finally:
        holder.kill()
        holder.wait()
    with Session() as k:
        equal("a cell", k.run("1 + 1").text, "2")
        gone = left.pop(this)
        wait_for(lambda: not os.path.exists(gone), f"{gone} is still there, and nothing locks it")
        equal("the other host's", [os.path.isdir(f) for f in left.values()], [True])
    shutil.rmtree(*left.values())


run(two, with_the_crate, at_the_same_time, of_another_host)
