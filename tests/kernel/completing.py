"""What an editor asks: completion, inspection, whether code is complete, history, comms and
kernel_info."""

import os

from checks import contains, equal, holds, lacks, new_folder, run, until_there

MARKS = "// z̄ 🐕\n"


def prepare(k):
    """Variables and a function for the checks."""
    if not hasattr(k, "prepared"):
        k.open()
        k.run("let images = vec![1u8, 2, 3];")
        k.run(
            "/// Doubles a number.\n///\n/// A second paragraph.\n"
            "fn double_it(x: u32) -> u32 { 2 * x }"
        )
        k.prepared = True


def completed(k, code, cursor=None):
    """The code after each completion."""
    cursor = len(code) if cursor is None else cursor
    reply = k.complete(code, cursor)
    equal(f"status of completing {code[:cursor]!r}", reply["status"], "ok")
    start, end = reply["cursor_start"], reply["cursor_end"]
    assert (
        0 <= start <= cursor <= end <= len(code)
    ), f"expected positions around {cursor}, found {start} to {end}"
    return [code[:start] + match + code[end:] for match in reply["matches"]]


def completes(k, code, to, cursor=None):
    """One of the completions is, or begins with, an expected text."""
    found = completed(k, code, cursor)
    holds(f"a completion to {to!r}", any(text.startswith(to) for text in found), found[:20])


def positions(k):
    """Positions are Unicode code points: after combining marks and emoji no letter is doubled or
    lost."""
    prepare(k)
    for before in ("", MARKS, "/* 👩‍👩‍👧 é z̄ */ "):
        code = f"{before}images.fir"
        reply = k.complete(code)
        found = (reply["cursor_start"], reply["cursor_end"])
        equal(f"positions after {before!r}", found, (len(code) - 3, len(code)))
        completes(k, code, f"{before}images.first")
    completes(k, 'let s = "z̄ 🐕"; images.fir', 'let s = "z̄ 🐕"; images.first')


def names(k):
    """Methods, variables, functions of earlier cells, items and associated functions of the crate
    are completed."""
    prepare(k)
    completes(k, "images.is_em", "images.is_empty")
    completes(k, "imag", "images")
    completes(k, "double_", "double_it")
    completes(k, "bootstrap_m", "bootstrap_mean")
    completes(k, "Rng::ne", "Rng::new")
    completes(k, "Rng::new(1).norm", "Rng::new(1).normal")
    found = completed(k, "")
    holds(
        "nothing internal among the names",
        not [text for text in found if "evcxr" in text],
        found[:20],
    )


def unfinished(k):
    """Code that is not finished yet is completed all the same."""
    prepare(k)
    completes(k, "if images.len() > 1 {\n    images.fir", "if images.len() > 1 {\n    images.first")
    completes(k, "let a = double_it(\nimages.fir", "let a = double_it(\nimages.first")
    completes(k, 'let wrong: u8 = "text";\nimages.fir', 'let wrong: u8 = "text";\nimages.first')
    completes(k, "for image in &images {\n    double_", "for image in &images {\n    double_it")


def middle(k):
    """The cursor in the middle of the code: what is behind it stays."""
    prepare(k)
    code = f"{MARKS}images.fir; let after = 1;"
    completes(k, code, f"{MARKS}images.first", code.index(";"))
    found = completed(k, code, code.index(";"))
    holds(
        "what is behind the cursor",
        all(text.endswith("; let after = 1;") for text in found),
        found[:20],
    )
    completes(k, "imag.len()", "images.len()", 4)


def while_a_cell_runs(k):
    """A question while a cell runs is answered, at the latest after the cell."""
    prepare(k)
    go = os.path.join(new_folder(), "go")
    cell = k.start(f'println!("started"); {until_there(go)}')
    k.until(lambda: cell.stdout, "the cell does not start", requests=[cell])
    asked = k.send("complete_request", {"code": "images.fir", "cursor_pos": 10})
    shown = k.send("inspect_request", {"code": "images", "cursor_pos": 6, "detail_level": 0})
    open(go, "w").close()
    k.wait(cell, asked, shown)
    equal("statuses", (cell.status, asked.status, shown.status), ("ok", "ok", "ok"))


def inspected(k, code, cursor, *parts):
    reply = k.inspect(code, cursor)
    where = f"{code[:cursor]!r}"
    equal(f"status and found at {where}", (reply["status"], reply["found"]), ("ok", True))
    contains(f"text at {where}", reply["data"]["text/plain"], *parts)
    return reply["data"]


def inspect(k):
    """A variable, functions and methods are found: type or signature, and the first paragraph of
    the documentation."""
    prepare(k)
    inspected(k, "images", 6, "Vec<u8>")
    inspected(k, "images", 3, "Vec<u8>")
    inspected(k, f"{MARKS}images.len()", len(MARKS) + 3, "Vec<u8>")
    data = inspected(k, "double_it(3)", 4, "fn double_it(x: u32) -> u32", "Doubles a number.")
    lacks("text", data["text/plain"], "evcxr")
    # As Shift-Tab asks within the parentheses.
    inspected(k, "double_it(", 10, "fn double_it(x: u32) -> u32", "Doubles a number.")
    inspected(
        k,
        "let mean = bootstrap_mean(&[1.0], 0);",
        15,
        "fn bootstrap_mean",
        "95 % percentile interval",
    )
    inspected(k, "Rng::new(1)", 7, "fn new", "Creates the generator of a seed.")
    # A variable that the same cell makes.
    inspected(k, "let local = (1u8, true);\nlocal", 28, "(u8, bool)")


def inspect_std(k):
    """Methods of the standard library are found with their documentation."""
    prepare(k)
    inspected(
        k, "Vec::<u8>::push", 14, "fn push", "Appends an element to the back of a collection."
    )
    inspected(k, "images.push(4)", 9, "fn push", "Appends an element to the back of a collection.")
    inspected(k, "images.len()", 9, "fn len", "Returns the number of elements in the vector")


def inspect_nothing(k):
    """Nothing is found on whitespace and under an unknown name."""
    prepare(k)
    for code, cursor in (("  \n  ", 2), ("1 +  2", 4), ("nosuchname", 4), ("", 0)):
        reply = k.inspect(code, cursor)
        equal(f"found at {cursor} of {code!r}", (reply["status"], reply["found"]), ("ok", False))
        equal("data", reply["data"], {})


def is_complete(k):
    """Code is complete, incomplete (with the indentation of the next line) or invalid."""
    samples = {
        "complete": [
            "1 + 1",
            "let a = 1;",
            "fn f() {}",
            "",
            "use std::fmt;",
            ":vars",
            "// only a comment",
            "f(1)?",
        ],
        "incomplete": [
            "fn f() {",
            "let a = (",
            "f(1,",
            'let s = "abc',
            "/* open",
            "if true {\n    1\n",
        ],
        "invalid": ["let = = 3;", "fn ) {}", "1 + 1)", "}"],
    }
    for status, codes in samples.items():
        for code in codes:
            reply = k.ask("is_complete_request", {"code": code})
            equal(f"{code!r}", reply["status"], status)
            if status == "incomplete":
                holds("its indentation", reply.get("indent", "").strip() == "", reply)


def history(k):
    """The history has what was run: the last cells, a range of them, and those with a pattern."""
    ask = lambda **options: k.ask("history_request", {"output": False, "raw": True, **options})[
        "history"
    ]
    codes = ["11 + 1", "12 + 1"]
    cells = [k.run(code) for code in codes]
    k.run("13 + 1", store_history=False)
    k.run("14 + 1", silent=True)
    tail = ask(hist_access_type="tail", n=2)
    equal("the last two", [entry[2] for entry in tail], codes)
    equal(
        "their numbers", [entry[1] for entry in tail], [c.reply["execution_count"] for c in cells]
    )
    session, number = tail[0][:2]
    found = ask(hist_access_type="range", session=session, start=number, stop=number + 1)
    equal("a range", [entry[2] for entry in found], codes[:1])
    found = ask(hist_access_type="search", pattern="12*", n=5)
    equal("a pattern", [entry[2] for entry in found], codes[1:])


def comms(k):
    """There are no comms, and one that is opened for an unknown target is closed."""
    equal("comm_info", k.ask("comm_info_request", {}), {"status": "ok", "comms": {}})
    message = k.client.session.msg(
        "comm_open", {"comm_id": "1", "target_name": "nosuch", "data": {}}
    )
    k.client.shell_channel.send(message)
    closed = lambda: [
        m for m in k.strays if m["msg_type"] == "comm_close" and m["content"]["comm_id"] == "1"
    ]
    k.until(closed, "the comm is not closed")
    k.strays.clear()


def kernel_info(k):
    """kernel_info tells the protocol, the kernel and the language, as a notebook's metadata needs
    it."""
    info = k.ask("kernel_info_request", {})
    language = info["language_info"]
    equal("status", info["status"], "ok")
    holds("protocol", info["protocol_version"].startswith("5."), info["protocol_version"])
    for name in ("implementation", "implementation_version", "banner"):
        holds(name, isinstance(info[name], str) and info[name], info)
    equal("language", (language["name"].lower(), language["file_extension"]), ("rust", ".rs"))
    holds("version of the language", language["version"][:2] == "1.", language)
    equal("lexer", language["pygments_lexer"], "rust")
    contains("mode of the editor", str(language["codemirror_mode"]), "rust")
    contains("type", language["mimetype"], "rust")
    holds("links", all(set(link) == {"text", "url"} for link in info.get("help_links", [])), info)
    holds("no debugger", not info.get("debugger"), info)


def commands_are_not_run(k):
    """A question about a cell does not carry out the commands at its beginning."""
    prepare(k)
    reply = k.complete(":restart\nimages.fir", 19)
    contains("matches", " ".join(reply["matches"]), "first")
    equal("found", k.inspect(":restart\nimages", 15)["found"], True)
    equal("variables", k.run("images.len()").text, "3")


run(
    commands_are_not_run,
    positions,
    names,
    unfinished,
    middle,
    while_a_cell_runs,
    inspect,
    inspect_std,
    inspect_nothing,
    is_complete,
    history,
    comms,
    kernel_info,
)
