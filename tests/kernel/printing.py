"""Text that cells print: all of it arrives, in its own cell, and no text ends a cell or keeps it
from ending."""

import os

from checks import contains, equal, holds, lacks, literal, new_folder, run, until_there

FLUSH = "std::io::Write::flush(&mut std::io::stdout()).unwrap();"
MARKERS = [
    "EVCXR_EXECUTION_COMPLETE",
    "EVCXR_PANIC_NOTIFICATION",
    "EVCXR_ERROR_OCCURRED",
    "EVCXR_VARIABLE_CHANGED_TYPE:kept",
    "EVCXR_END_CONTENT",
]


def raw(bytes_):
    """A statement of Rust that writes bytes to stdout and flushes them."""
    return f"std::io::Write::write_all(&mut std::io::stdout(), &{list(bytes_)}).unwrap(); {FLUSH}"


def without_newline(k):
    """Text without a newline arrives in its own cell, flushed or not."""
    cells = k.queue(
        [
            'print!("one");',
            f'print!("two"); {FLUSH}',
            'eprint!("three");',
            'print!("a"); print!("b\\nc");',
        ]
    )
    k.wait(*cells)
    equal("stdout", [c.stdout for c in cells], ["one", "two", "", "ab\nc"])
    equal("stderr", [c.stderr for c in cells], ["", "", "three", ""])
    cell = k.run('print!("before"); 7')
    equal("text and result", [cell.stdout, cell.text], ["before", "7"])


def while_it_runs(k):
    """Flushed text is shown while its cell runs."""
    path = os.path.join(new_folder(), "go")
    cell = k.start(f'print!("abc"); {FLUSH} {until_there(path)} println!(" def");')
    k.until(lambda: cell.stdout, "no text", requests=[cell])
    equal("text while the cell runs", (cell.stdout, cell.done), ("abc", False))
    open(path, "w").close()
    k.wait(cell)
    equal("text at the end", cell.stdout, "abc def\n")


def progress(k):
    """Progress by carriage returns arrives unchanged."""
    cell = k.run(f'for i in 0..=5 {{ print!("\\r{{i}} of 5"); {FLUSH} }}')
    equal("stdout", cell.stdout, "".join(f"\r{i} of 5" for i in range(6)))
    cell = k.run('for i in 0..=5 { eprint!("\\r{i} of 5"); } eprintln!();', loud=True)
    equal("stderr", cell.stderr, "".join(f"\r{i} of 5" for i in range(6)) + "\n")


def fifty(k):
    """None of 50 lines on stderr is lost, each the last statement of its cell."""
    cells = k.queue([f'eprintln!("line {i}");' for i in range(50)])
    k.wait(*cells)
    equal("stderr", [c.stderr for c in cells], [f"line {i}\n" for i in range(50)])


def letters_of_markers(k):
    """Text that could be the beginning of a marker is shown without waiting for what follows."""
    folder = new_folder()
    go = os.path.join(folder, "go")
    cell = k.start(f'print!("NAME"); {FLUSH} {until_there(go)}')
    k.until(lambda: cell.stdout == "NAME", "the text waits", requests=[cell])
    open(go, "w").close()
    k.wait(cell)
    equal("text", cell.stdout, "NAME")


def long(k):
    """5,000 lines, and one line of a million letters, arrive whole."""
    cell = k.run('for i in 0..5000 { println!("line {i}"); }')
    equal("5,000 lines", cell.stdout, "".join(f"line {i}\n" for i in range(5000)))
    cell = k.run('print!("{}", "x".repeat(1_000_000));')
    equal("letters", (len(cell.stdout), set(cell.stdout)), (1_000_000, {"x"}))


def thread(k):
    """Text of a thread that outlives its cell arrives in it or a later one, and nothing hangs."""
    k.late_allowed = True
    folder = new_folder()
    go, end = os.path.join(folder, "go"), os.path.join(folder, "end")
    late = f'println!("late line"); print!("late part"); {FLUSH} '
    late += f"std::fs::File::create({literal(end)}).unwrap();"
    cells = [k.run(f"std::thread::spawn(|| {{ {until_there(go)} {late} }});")]
    equal("text before the thread prints", cells[0].stdout, "")
    open(go, "w").close()
    # This cell ends after the thread has printed.
    cells.append(k.run(f"{until_there(end)} 1 + 1"))
    equal("result of a later cell", cells[1].text, "2")
    cells.append(k.run('println!("own");'))
    text = lambda: "".join(c.stdout for c in cells)
    k.until(
        lambda: "late line" in text() and "late part" in text(),
        "the thread's text is lost",
        requests=cells,
    )
    for part in ("late line\n", "late part", "own\n"):
        equal(f"how often {part!r} was shown", text().count(part), 1)
    # While a thread prints all the time, each cell ends.
    stop = os.path.join(folder, "stop")
    nap = "std::thread::sleep(std::time::Duration::from_millis(1));"
    busy = f'while !std::path::Path::new({literal(stop)}).exists() {{ print!("."); {FLUSH} {nap} }}'
    k.run(f"let worker = std::thread::spawn(|| {{ {busy} }});")
    for i in range(5):
        cell = k.run(f'println!("cell{i}"); {i}')
        equal("result beside the thread", cell.text, str(i))
        contains("text beside the thread", cell.stdout.replace(".", ""), f"cell{i}\n")
    open(stop, "w").close()
    k.run("worker.join().unwrap();")
    # And while it prints without any pause.
    again = os.path.join(folder, "again")
    busy = f'while !std::path::Path::new({literal(again)}).exists() {{ println!("."); }}'
    k.run(f"let worker = std::thread::spawn(|| {{ {busy} }});")
    equal("result beside it", k.run("7").text, "7")
    open(again, "w").close()
    k.run("worker.join().unwrap();")
    k.settle()
    k.requests.clear()
    k.late_allowed = False


def markers(k):
    """Text that contains the markers of evcxr neither ends a cell nor loses its variables."""
    k.run("let kept = vec![1, 2, 3];")
    for marker in MARKERS:
        cell = k.run(f'println!("a {marker} b"); println!("after"); kept.len()')
        equal(f"{marker} within a line", (cell.stdout, cell.text), (f"a {marker} b\nafter\n", "3"))
        cell = k.run(f'println!("before"); println!("{marker}"); println!("after"); kept.len()')
        holds(
            f"{marker} as a line",
            cell.stdout.startswith("before\n") and cell.stdout.endswith("after\n"),
            cell,
        )
        equal("result", cell.text, "3")
        k.run(f'print!("{marker}");')
        equal("the next cell", k.run('println!("next"); kept.len()').stdout, "next\n")
    cell = k.run('println!("EVCXR_BEGIN_CONTENT"); println!("after");')
    contains("a frame without type", cell.stdout, "after\n")
    equal("variables", k.run("kept.clone()").text, "[1, 2, 3]")


def bytes_(k):
    """Bytes that are no UTF-8 become replacement characters; a letter written in two parts stays
    whole."""
    cell = k.run(raw(b"a\xff\xfeb\n") + ' println!("after");')
    holds(
        "invalid bytes",
        cell.stdout.startswith("a\ufffd") and cell.stdout.endswith("b\nafter\n"),
        cell,
    )
    nap = "std::thread::sleep(std::time::Duration::from_millis(100));"
    first, second = "é🐕".encode()[:4], "é🐕".encode()[4:]
    cell = k.run(f"{raw(first)} {nap} {raw(second)} println!();")
    equal("letters in two parts", cell.stdout, "é🐕\n")
    cell = k.run('println!("z̄ 🐕 \\0 \\x1b[31mred\\x1b[0m");')
    equal("signs", cell.stdout, "z̄ 🐕 \0 \x1b[31mred\x1b[0m\n")
    equal("the next cell", k.run("1 + 1").text, "2")


def programs(k):
    """What other programs print arrives in the cell that ran them."""
    cell = k.run('std::process::Command::new("echo").arg("from a program").status().unwrap();')
    equal("stdout of a program", cell.stdout, "from a program\n")
    cell = k.run('std::process::Command::new("printf").arg("no newline").status().unwrap();')
    equal("stdout without newline", cell.stdout, "no newline")
    shell = 'std::process::Command::new("sh").args(["-c", "echo out; echo err >&2"])'
    cell = k.run(f"{shell}.status().unwrap();", loud=True)
    equal("both of a shell", (cell.stdout, cell.stderr), ("out\n", "err\n"))
    second = 'std::process::Command::new("echo").arg("second").status().unwrap();'
    cell = k.run(f'println!("first"); {second} println!("third");')
    equal("in order", cell.stdout, "first\nsecond\nthird\n")


def c(k):
    """Text of C's stdio arrives in its own cell."""
    declared = 'unsafe extern "C" { fn puts(text: *const std::ffi::c_char) -> std::ffi::c_int; }'
    cell = k.run(f'{{ {declared} unsafe {{ puts(c"from C".as_ptr()); }} }};')
    equal("stdout", cell.stdout, "from C\n")
    lacks("the next cell", k.run('println!("next");').stdout, "from C")


run(without_newline, while_it_runs, progress, fifty, letters_of_markers, long, thread, markers, bytes_, programs, c)
