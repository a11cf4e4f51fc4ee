"""A type is redefined: variables of the old type are dropped with a message, others are kept."""

import os
import tempfile

from session import Session


def dropped(cell):
    """The variables that a cell reported as dropped."""
    lines = cell.stdout.splitlines()
    return sorted(line.split("`")[1] for line in lines if line.startswith("The variable `"))


with Session() as k:
    # The old bits would print as 1.
    k.run("struct P { a: u64 }")
    k.run("let p = P { a: 0x3ff0000000000000 };")
    k.run("let list = vec![P { a: 1 }]; let other = vec![1u8, 2, 3];")
    k.run("struct Q { p: P }\nstruct R { a: u8 }\nlet q = Q { p: P { a: 1 } }; let r = R { a: 7 };")
    cell = k.run("struct P { a: f64 }")
    assert dropped(cell) == ["list", "p", "q"], cell.stdout
    for sentence in [
        "The variable `p` was dropped: its type `P` was redefined since. "
        "Run the cell that makes it again.",
        "`list` was dropped: its type `Vec<P>` depends on `P`, which was redefined since.",
        "`q` was dropped: its type `Q` depends on `P`, which was redefined since.",
    ]:
        assert sentence in cell.stdout, cell.stdout
    assert "cannot find value `p`" in k.run("p.a", status="error").error
    cell = k.run("other.len() + r.a as usize")
    assert cell.text == "10" and not dropped(cell), cell.outputs

    # The next cell makes it again.
    k.run("let p = P { a: 0.5 };")
    assert k.run("p.a").text == "0.5"

    # The same definition, written otherwise, and with a method and derives.
    same = "#[derive(Clone, Debug)]\n/// A number.\npub struct P {\n    a: f64, // in metres\n}\n"
    cell = k.run(same + "impl P { fn twice(&self) -> f64 { 2.0 * self.a } }")
    assert not dropped(cell), cell.stdout
    assert k.run("p.twice()").text == "1.0"
    method = "impl P { fn twice(&self) -> f64 { 3.0 * self.a } }\n"
    cell = k.run(same + method + "fn half(p: &P) -> f64 { p.a / 2.0 }")
    assert not dropped(cell), cell.stdout
    assert k.run("(p.twice(), half(&p), &p)").text == "(1.5, 0.25, P { a: 0.5 })"

    # A cell with the type and a variable of it is edited and run again.
    k.run("struct Named { a: u64 }\nlet named = Named { a: 1 };")
    new = 'struct Named { a: String }\nlet named = Named { a: "new".into() };\n'
    cell = k.run(new + "named.a.len()")
    assert cell.text == "3" and not dropped(cell), (cell.outputs, cell.stdout)
    assert k.run("named.a.clone()").text == '"new"'
    # It needs the old value.
    new = "struct Named { a: String, b: u8 }\nlet named = Named { a: named.a.clone(), b: 1 };"
    cell = k.run(new, status="error")
    assert dropped(cell) == ["named"], cell.stdout
    assert "cannot find value `named`" in cell.error, cell.error

    # A trait's object has the old trait's table of methods.
    old = "trait Layer { fn width(&self) -> usize; }\nstruct Wide;\n"
    k.run(old + "impl Layer for Wide { fn width(&self) -> usize { 8 } }")
    k.run("let layer: Box<dyn Layer> = Box::new(Wide);")
    assert k.run("layer.width()").text == "8"
    new = old.replace("{ fn", "{ fn depth(&self) -> usize; fn")
    methods = "fn depth(&self) -> usize { 1 } fn width(&self) -> usize { 8 }"
    cell = k.run(new + f"impl Layer for Wide {{ {methods} }}")
    assert dropped(cell) == ["layer"], cell.stdout
    assert "`Box<dyn Layer>` depends on `Layer`" in cell.stdout, cell.stdout

    # A type that becomes generic: evcxr names the old one in every cell, and none would compile.
    k.run("struct Pair { a: u8 }\nlet pair = Pair { a: 1 };")
    cell = k.run("struct Pair<T> { a: T }")
    assert dropped(cell) == ["pair"], cell.stdout
    assert k.run("let pair = Pair { a: 2u16 };\npair.a").text == "2"

    # The old value is destroyed by the code that it was made for.
    drop = 'impl Drop for Guard { fn drop(&mut self) { println!("destroyed: {}", self.a); } }'
    k.run("struct Guard { a: String }\n" + drop)
    k.run('let guard = Guard { a: "the old one".into() };')
    cell = k.run("struct Guard { a: u8 }\n" + drop)
    assert dropped(cell) == ["guard"], cell.stdout
    cell = k.run("r.a")
    assert cell.text == "7" and "destroyed: the old one" in cell.stdout, cell.stdout

    # A crate of the user's own that was edited.
    with tempfile.TemporaryDirectory() as folder:
        def write(name, text):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)

        manifest = '[package]\nname = "my-crate"\nversion = "0.1.0"\nedition = "2024"\n'
        write("Cargo.toml", manifest + "[workspace]\n")
        write("src/lib.rs", "pub struct Point { pub x: u64 }")
        k.run(f':dep my-crate = {{ path = "{folder}" }}')
        k.run("let point = my_crate::Point { x: 0x3ff0000000000000 };")
        assert not dropped(k.run("point.x"))
        write("src/lib.rs", "pub struct Point { pub x: f64 }")
        cell = k.run("1 + 1")
        assert dropped(cell) == ["point"], cell.stdout
        assert "depends on `my_crate`" in cell.stdout, cell.stdout
        assert k.run("r.a").text == "7"
    k.settle()
