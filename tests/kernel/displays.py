"""Displays, updates and results: each with all its types, in order with the text around it."""

import base64
import json

from checks import (
    FIGURE,
    FRAME,
    TABLE,
    contains,
    display,
    equal,
    frame,
    holds,
    is_png,
    lacks,
    literal,
    run,
    write,
)


def kinds(cell):
    return [kind for kind, _ in cell.outputs]


def text(value):
    return {"text/plain": value}


def notebook(k):
    """The process of cells knows from CARGO_KERNEL that frames are read."""
    equal("CARGO_KERNEL", k.run('std::env::var("CARGO_KERNEL").unwrap()').text, '"1"')


def results(k):
    """A final expression is an execute_result; `()` and a statement show nothing."""
    cell = k.run('println!("text"); (17, "x".to_owned())')
    equal("outputs", kinds(cell), ["stdout", "execute_result"])
    equal("result", cell.result, text('(17, "x")'))
    for code in (
        "()",
        "1 + 1;",
        "let unused = 3;",
        "for i in 0..3 { std::hint::black_box(i); }",
        "{ 1 + 1; }",
        "\n",
    ):
        equal(f"outputs of {code!r}", k.run(code).outputs, [])
    equal("a string", k.run('"two\\nlines"').text, '"two\\nlines"')


def in_order(k):
    """Several displays in one cell are shown in order, with the text between and the result at the
    end."""
    first, second = {"text/plain": "one", "text/html": "<b>1</b>"}, text("two")
    code = f'print!("a"); {display(first)} println!("b"); {display(second)} print!("c"); 7'
    cell = k.run(code)
    equal(
        "outputs",
        kinds(cell),
        ["stdout", "display_data", "stdout", "display_data", "stdout", "execute_result"],
    )
    equal("texts", [c for kind, c in cell.outputs if kind == "stdout"], ["a", "b\n", "c"])
    equal("displays", cell.displays, [first, second])
    equal("result", cell.text, "7")
    # One before the last expression, which is no display of its own.
    cell = k.run(f"{display(first)} {display(first)} 8")
    equal("displays before a result", (cell.displays, cell.text), ([first, first], "8"))


def types(k):
    """Values of all types arrive unchanged: text with quotes and newlines, JSON, and several
    megabytes."""
    large = base64.b64encode(bytes(range(256)) * 4).decode()
    data = {
        "text/plain": 'z̄ 🐕 "quoted" \\ \n second',
        "application/json": {"a": [1, None, "x"]},
        "image/png": large,
    }
    cell = k.run(display(data))
    equal("data", cell.displays, [data])
    content = {"data": text("x"), "metadata": {"text/plain": {"a": 1}}, "transient": {}}
    cell = k.run(frame("display_data", content))
    equal("metadata", cell.of("display_data")[0]["metadata"], content["metadata"])
    # As a format string of Rust, into which the text is put.
    content = {"data": text("TEXT"), "metadata": {}, "transient": {}}
    line = json.dumps({"msg_type": "display_data", "content": content})
    line = line.replace("{", "{{").replace("}", "}}").replace("TEXT", "{}")
    shown = literal(f"EVCXR_BEGIN_CONTENT {FRAME}\n{line}\nEVCXR_END_CONTENT\n")
    cell = k.run(f'print!({shown}, "x".repeat(5_000_000));')
    equal("letters", [len(d["text/plain"]) for d in cell.displays], [5_000_000])
    equal("text beside them", cell.stdout, "")


def old_frames(k):
    """Frames of the old form, one for each type, are one display until a type repeats."""
    old = lambda kind, value: write(f"EVCXR_BEGIN_CONTENT {kind}\n{value}\nEVCXR_END_CONTENT\n")
    both = old("text/html", "<b>\n1</b>") + old("text/plain", "one")
    cell = k.run(f'{both}{old("text/html", "<i>2</i>")} println!("end");')
    equal(
        "displays",
        cell.displays,
        [{"text/html": "<b>\n1</b>", "text/plain": "one"}, {"text/html": "<i>2</i>"}],
    )
    equal("outputs", kinds(cell), ["display_data", "display_data", "stdout"])
    # As types of other crates display themselves.
    shown = f"impl Shown {{ fn evcxr_display(&self) {{ {both} }} }}"
    cell = k.run(f"struct Shown;\n{shown}\nShown")
    equal("result", cell.result, {"text/html": "<b>\n1</b>", "text/plain": "one"})
    equal("outputs of a result", kinds(cell), ["execute_result"])


def own_types(k):
    """A type that displays itself by a frame is a display in the middle of a cell and a result at
    its end."""
    shown = f'impl Own {{ fn evcxr_display(&self) {{ {display(text("own"))} }} }}'
    cell = k.run(f"struct Own;\n{shown}\nOwn.evcxr_display(); Own")
    equal("displays and result", (cell.displays, cell.result), ([text("own")], text("own")))
    equal("outputs", kinds(cell), ["display_data", "execute_result"])


def updates(k):
    """A display under an id is updated in its cell and from later ones."""
    both = display(text("1 %"), "bar") + display(text("2 %"), "bar", update=True)
    cell = k.run(f'{both} println!("text");')
    equal("outputs", kinds(cell), ["display_data", "update_display_data", "stdout"])
    equal("id of the display", cell.of("display_data")[0]["transient"], {"display_id": "bar"})
    later = k.run(display(text("3 %"), "bar", update=True))
    for one, value in ((cell, "2 %"), (later, "3 %")):
        content = one.of("update_display_data")[0]
        found = (content["data"], content["transient"])
        equal(f"update to {value}", found, (text(value), {"display_id": "bar"}))


def clear(k):
    """clear_output is passed on, now or with the next output."""
    later, now = (frame("clear_output", {"wait": wait}) for wait in (True, False))
    cell = k.run(f'println!("a"); {later} println!("b"); {now}')
    equal("outputs", kinds(cell), ["stdout", "clear_output", "stdout", "clear_output"])
    equal("wait", [c["wait"] for c in cell.of("clear_output")], [True, False])


def errors(k):
    """An error frame fails the cell: one error, the reply `error`, and the queue is aborted."""
    content = {"ename": "Own", "evalue": "a message", "traceback": ["Own: a message"]}
    cells = k.queue([f'println!("before"); {frame("error", content)}', "1 + 1"])
    k.wait(*cells)
    equal("replies", [c.status for c in cells], ["error", "aborted"])
    equal("error", (cells[0].ename, cells[0].evalue), ("Own", "a message"))
    equal("text", cells[0].stdout, "before\n")


def broken(k):
    """What is no frame ends no cell and loses no text: damaged JSON, an unknown message, a frame
    without end."""
    k.run("let kept = 3;")
    begin = "EVCXR_BEGIN_CONTENT application/vnd.cargo-kernel+json\n"
    for inside in (
        "{\n",
        '{"msg_type": "display_data"}\n',
        '{"msg_type": "nosuch", "content": {}}\n',
        "[1]\n",
        "\n",
    ):
        cell = k.start(write(f"{begin}{inside}EVCXR_END_CONTENT\n") + ' println!("after");')
        k.wait(cell)
        contains(f"text after {inside!r}", cell.stdout, "after\n")
        equal("the next cell", k.run('println!("next"); kept').outputs[0], ("stdout", "next\n"))
    for unfinished in (
        begin,
        begin + "{}",
        "EVCXR_BEGIN_CONTENT text/html\n<b>",
        "EVCXR_BEGIN_CONTENT",
    ):
        cell = k.start(write(unfinished))
        k.wait(cell)
        equal(
            f"the cell after {unfinished!r}",
            k.run('println!("next"); kept').outputs[0],
            ("stdout", "next\n"),
        )


def beside_a_thread(k):
    """While a thread prints without newlines, 50 displays and all of its text arrive."""
    thread = 'let other = std::thread::spawn(|| for _ in 0..20_000 { print!("x"); });'
    one = display({"text/plain": "0123456789" * 100})
    cell = k.run(f"{{ {thread} for _ in 0..50 {{ {one} }} other.join().unwrap(); }};")
    equal("displays", cell.displays, [text("0123456789" * 100)] * 50)
    equal("text", cell.stdout, "x" * 20_000)


def before_an_error(k):
    """What was shown before a panic stays."""
    cell = k.run(f'{display(text("shown"))} print!("text"); panic!("on purpose");', status="error")
    equal("outputs", kinds(cell), ["display_data", "stdout", "error"])


def a_figure(k):
    """A figure has image/png and text/plain, as a result and in the middle of a cell."""
    k.open()
    k.run(f"let figure = {FIGURE}.figure()?;")
    cell = k.run('figure.evcxr_display(); println!("text"); figure.evcxr_display(); figure.clone()')
    equal("outputs", kinds(cell), ["display_data", "stdout", "display_data", "execute_result"])
    for data in [*cell.displays, cell.result]:
        holds("image/png is a PNG", is_png(data.get("image/png", "")), data.keys())
        holds(
            "text/plain is a short text",
            0 < len(data.get("text/plain", "")) < 1000,
            data.get("text/plain"),
        )


def a_table(k):
    """A table has text/html, text/markdown or text/latex, and text/plain."""
    k.open()
    data = k.run(TABLE).result
    contains("text/html", data["text/html"], "<td>fc6</td>", "0.82")
    contains("text/plain", data["text/plain"], "fc6", "0.82")
    lacks("text/plain", data["text/plain"], "<td>")
    holds("a form for papers", {"text/markdown", "text/latex"} & data.keys(), data.keys())
    for kind in {"text/markdown", "text/latex"} & data.keys():
        contains(kind, data[kind], "fc6", "0.82")


def an_explorer(k):
    """An explorer has text/html, a still image, and text/plain."""
    k.open()
    images = "Tensor::zeros((6, 3, 64, 64), DType::F32, &Device::Cpu)?"
    data = k.run(
        f'Explorer::new(&{images})?.axis("layer", ["conv5", "fc6"]).axis("sample", 1..=3)'
    ).result
    contains("text/html", data["text/html"], "conv5")
    holds("image/png is a PNG", is_png(data.get("image/png", "")), data.keys())
    holds(
        "text/plain is a short text",
        0 < len(data.get("text/plain", "")) < 1000,
        data.get("text/plain"),
    )


run(
    notebook,
    results,
    in_order,
    types,
    old_frames,
    own_types,
    updates,
    clear,
    errors,
    broken,
    beside_a_thread,
    before_an_error,
    a_figure,
    a_table,
    an_explorer,
)
