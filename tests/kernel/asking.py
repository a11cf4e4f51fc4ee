"""Cells that read stdin: asked through Jupyter's stdin channel where a client allows it, an error
elsewhere."""

from checks import contains, equal, holds, run

READ = "std::io::stdin().read_line(&mut line).unwrap();"
FLUSH = "std::io::Write::flush(&mut std::io::stdout()).unwrap();"


def seen(cell):
    """What a user has read: the prompts and the text before them."""
    return cell.stdout + "".join(cell.prompts)


def one(k):
    """A cell that reads a line asks for it, and has it with its newline."""
    cell = k.run(f"let mut line = String::new(); {READ} line.clone()", answers=["Ada"])
    equal("how often it asked", len(cell.prompts), 1)
    equal("what it read", cell.text, '"Ada\\n"')
    equal("in the next cell", k.run("line.trim().len()").text, "3")
    cell = k.run(
        'line.clear(); std::io::stdin().read_line(&mut line)?; print!("{line}");',
        answers=["z̄ 🐕"],
    )
    equal("letters", cell.stdout, "z̄ 🐕\n")
    cell = k.run(f"line.clear(); {READ} line.clone()", answers=[""])
    equal("an empty answer", cell.text, '"\\n"')


def two(k):
    """Each line is asked for on its own, in one cell and in the next; none is left over."""
    cell = k.run(f"let mut line = String::new(); {READ} {READ} line.clone()", answers=["a", "b"])
    equal("two answers", (cell.text, len(cell.prompts)), ('"a\\nb\\n"', 2))
    cell = k.run(
        "std::io::stdin().lines().take(3).map(Result::unwrap).collect::<Vec<_>>()",
        answers=["c", "d", "e"],
    )
    equal("three lines", (cell.text, len(cell.prompts)), ('["c", "d", "e"]', 3))
    cell = k.run(f"line.clear(); {READ} line.clone()", answers=["f"])
    equal("the next cell", cell.text, '"f\\n"')


def after_text(k):
    """Text before the question is shown before the answer, without a newline too."""
    code = f'let mut line = String::new(); print!("Name: "); {FLUSH} {READ} '
    code += 'println!("Hello, {}", line.trim());'
    cell = k.start(code, allow_stdin=True)
    k.until(lambda: cell.prompts and "Name: " in seen(cell), "no question", requests=[cell])
    k.client.input("Ada")
    k.wait(cell)
    contains("text at the end", cell.stdout, "Hello, Ada\n")
    # Rust keeps what is not flushed until a newline or the end of the cell.
    cell = k.run(
        f'line.clear(); print!("Name: "); {READ} print!("{{}}", line.trim());', answers=["Eve"]
    )
    holds(
        "text without flush", seen(cell).count("Name: ") == 1 and cell.stdout.endswith("Eve"), cell
    )


def a_question_is_interrupted(k):
    """A cell that waits for an answer is interrupted."""
    cells = k.queue([f"let mut line = String::new(); {READ}", "1 + 1"], allow_stdin=True)
    k.until(lambda: cells[0].prompts, "no question", requests=cells)
    k.interrupt()
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["error", "aborted"])
    equal("name of the error", cells[0].ename, "Interrupted")
    equal("the next cell", k.run("1 + 1").text, "2")
    cell = k.run(f"let mut line = String::new(); {READ} line.clone()", answers=["later"])
    equal("a later question", cell.text, '"later\\n"')


def not_allowed(k):
    """Where a client allows no stdin, the cell reads the end of the file and fails; variables are
    kept."""
    k.run("let kept = vec![1, 2, 3];")
    code = f'let mut line = String::new(); let read = {READ[:-1]}; println!("read {{read}}");'
    cells = k.queue([code, "1 + 1"])
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["error", "aborted"])
    equal("name of the error", cells[0].ename, "StdinNotSupported")
    contains("the error", cells[0].error.lower(), "stdin")
    equal("how often it asked", cells[0].prompts, [])
    equal("what it read", cells[0].stdout, "read 0\n")
    equal("variables", k.run("kept.len()").text, "3")
    cell = k.run(f"let mut line = String::new(); {READ} line.clone()", answers=["again"])
    equal("a cell that may ask", cell.text, '"again\\n"')


def a_program_reads(k):
    """A program that reads stdin takes nothing that is meant for the kernel, and its cell ends."""
    k.run("let kept = vec![1, 2, 3];")
    cell = k.start('println!("{}", std::process::Command::new("cat").status().unwrap());')
    k.wait(cell)
    print(f"          the cell ends with the status {cell.status} {cell.ename}")
    equal("variables", k.run("kept.len()").text, "3")


run(one, two, after_text, a_question_is_interrupted, not_allowed, a_program_reads)
