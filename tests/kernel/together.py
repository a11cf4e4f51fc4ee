"""Two kernels at once: each has its variables, its folder and its time."""

from session import OPEN, Session

with Session() as one, Session() as two:
    one.run(OPEN)
    two.run(OPEN)
    one.run("let name = 1;")
    two.run('let name = "two".to_owned();')
    assert one.run("name + 1").text == "2"
    assert two.run("name.len()").text == "3"
    first, second = (k.run(":last_compile_dir").text for k in (one, two))
    assert first != second, first
