"""What goes wrong in a cell is shown as what it is, and what can be kept is kept."""

from checks import KILL, contains, equal, lacks, run


def prepare(k):
    k.open()
    k.run("let kept = vec![1, 2, 3];")


def compile_error(k):
    """A compile error has the compiler's code, its message, and the line with its place."""
    prepare(k)
    cell = k.run("let fine = 1;\nkept.nosuch()", status="error")
    equal("name", cell.ename, "E0599")
    contains("message", cell.evalue, "nosuch")
    contains("the user's line", cell.error, "kept.nosuch()")
    lacks("nothing of the code around the cell", cell.error, "evcxr", "/src/lib.rs")
    equal("outputs", [kind for kind, _ in cell.outputs], ["error"])
    # Two errors are one message.
    cell = k.run('let number: u8 = "text";\nkept.nosuch()', status="error")
    contains("both errors", cell.error, "E0308", "nosuch")
    # One without a code.
    cell = k.run("let = 3;", status="error")
    contains("an error of syntax", cell.error, "expected")
    equal("variables", k.run("kept.len()").text, "3")


def a_panic(k):
    """A panic is one error with the message and the line; its cell's variables are not kept, others
    are."""
    prepare(k)
    cell = k.run("let lost = 1; kept[7]", status="error")
    equal("name", cell.ename, "Panic")
    contains("message", cell.evalue, "index out of bounds")
    contains("the user's line", cell.error, "kept[7]")
    # Without the frames of a backtrace.
    equal("stderr", cell.stderr, "")
    equal("variables", k.run("kept.len()").text, "3")
    equal("a variable of the failed cell", k.run("lost", status="error").ename, "E0425")


def question_marks(k):
    """An error that `?` returns is one error with its message; variables are kept."""
    prepare(k)
    cell = k.run('let number: u32 = "<x>".parse()?;', status="error")
    equal("name and message", (cell.ename, cell.evalue), ("Error", "invalid digit found in string"))
    equal("stderr", cell.stderr, "")
    # An error of the crate reads as a sentence.
    zeros = "Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?"
    cell = k.run(f"{zeros}.matmul(&{zeros})?;", status="error")
    equal("name", cell.ename, "Error")
    contains("message", cell.evalue, "shape mismatch")
    equal("variables", k.run("kept.len()").text, "3")


def references(k):
    """A variable that cannot be kept says what to do."""
    prepare(k)
    cell = k.run("let part = &kept[1..];", status="error")
    contains("the variable", cell.error, "part")
    cell = k.run("let add = |x: u8| x + 1;", status="error")
    contains("the variable", cell.error, "add")
    contains("what to do", cell.error, "Box<dyn")
    equal("variables", k.run("kept.len()").text, "3")


def killed(k):
    """A killed process says so once, and the next cells run in a new one."""
    prepare(k)
    cell = k.run(KILL, status="error")
    equal("name", cell.ename, "ProcessEnded")
    contains("message", cell.error, "SIGKILL", "lost")
    cell = k.run("1 + 1")
    equal("the next cell", (cell.text, cell.stdout), ("2", ""))
    equal("a variable", k.run("kept", status="error").ename, "E0425")
    # What a notebook's first cell opened is still there.
    k.run("let seed = Rng::new(1);")


def panics_of_threads(k):
    """A panic that a thread had and the cell passes on has its message, not that of another one; one
    that the cell catches is told on stderr."""
    k.run("let v: Vec<u8> = vec![]; v[3]", status="error")
    cell = k.run(
        """let thread = std::thread::spawn(|| panic!("in a thread"));
if let Err(panic) = thread.join() { std::panic::resume_unwind(panic) }""",
        status="error",
    )
    contains("the error", cell.error, "in a thread")
    cell = k.start('let _ = std::panic::catch_unwind(|| panic!("caught"));')
    k.wait(cell)
    equal("status", cell.status, "ok")
    contains("stderr", cell.stderr, "caught")
    equal("the next cell", k.run("1 + 1").text, "2")


run(panics_of_threads, compile_error, a_panic, question_marks, references, killed)
