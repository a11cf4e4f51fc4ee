"""Random sequences of cells with what each of them must do, from a seed.

`sequence(seed)` gives rounds: lists of steps whose cells are sent at once. A model of the kernel
says of each step its status, its outputs, and which variables exist afterwards. Cells are plain
Rust, which compiles quicker than with the crate.
"""

import random
import re

from checks import KILL, display, literal

ROUNDS = 6
# A line that a thread prints at any time.
LATE = re.compile(r"late-\d+-\d+\n")
READ = "let mut asked = String::new(); std::io::stdin().read_line(&mut asked).unwrap();"
NAP = "std::thread::sleep(std::time::Duration::from_millis({}));"


class Step:
    """A cell and what it must do. `answers` are given on stdin; `maybe` are other results that it
    may have."""

    def __init__(self, kind, code, **expected):
        self.kind, self.code = kind, code
        self.answers = expected.pop("answers", ())
        self.maybe = expected.pop("maybe", ())
        self.effect = expected.pop("effect", lambda: None)
        self.expected = {
            "status": "ok",
            "ename": "",
            "stdout": "",
            "stderr": "",
            "text": "",
            "displays": [],
            "updates": [],
        }
        self.expected |= expected
        if self.expected["ename"]:
            self.expected["status"] = "error"

    def abort(self):
        """Makes it one that does not run."""
        self.expected = Step(self.kind, self.code, status="aborted").expected
        self.maybe, self.answers = (), ()

    def allowed(self):
        """All that its cell may do."""
        return [self.expected, *({**self.expected, **other} for other in self.maybe)]

    def found(self, cell):
        """What a cell did, without the lines of threads."""
        return {
            "status": cell.status,
            "ename": cell.ename,
            "stdout": LATE.sub("", cell.stdout),
            "stderr": cell.stderr,
            "text": cell.text,
            "displays": [content["data"].get("text/plain") for content in cell.of("display_data")],
            "updates": [
                content["data"].get("text/plain") for content in cell.of("update_display_data")
            ],
        }


class Round:
    """Steps that are sent at once; `interrupt` is the time in seconds after which the first is
    interrupted, or None."""

    def __init__(self, steps, stop_on_error, interrupt):
        self.steps, self.stop_on_error, self.interrupt = steps, stop_on_error, interrupt

    def __str__(self):
        how = "" if self.interrupt is None else f", interrupted after {self.interrupt:.2f} s"
        lines = [
            (
                f"sent at once, stop_on_error {self.stop_on_error}{how}:"
                if len(self.steps) > 1 or how
                else "sent alone:"
            )
        ]
        for step in self.steps:
            told = {name: value for name, value in step.expected.items() if value}
            lines.append(f"  {step.kind}: {step.code[:300]!r}\n    must do {str(told)[:300]}")
        return "\n".join(lines)


class Model:
    """What a kernel has after the steps so far, and the kinds of steps that can follow."""

    def __init__(self, seed):
        self.seed, self.random, self.count = seed, random.Random(seed), 0
        # Variables with their texts: those that exist, those that may, and names that do not exist.
        self.variables, self.unsure, self.absent = {}, {}, []
        self.counters, self.functions, self.structs, self.displays = {}, {}, {}, []
        # Lines of threads: those that must come once, and those that may.
        self.due, self.lost = set(), set()

    def number(self):
        self.count += 1
        return self.count

    def token(self):
        return f"token-{self.seed}-{self.number()}"

    def name(self, letter):
        return f"{letter}{self.seed}_{self.number()}"

    def kinds(self):
        """The kinds of steps, with how often they are taken."""
        often = [self.line, self.part, self.on_stderr, self.variable, self.use, self.lost_variable]
        often += [self.function, self.mixed, self.show]
        seldom = [
            self.long,
            self.panic,
            self.question,
            self.compile_error,
            self.structure,
            self.update,
        ]
        seldom += [
            self.program,
            self.thread,
            self.counter,
            self.comment,
            self.no_stdin,
            self.answered,
        ]
        return often * 3 + seldom * 2 + [self.killed, self.exits] * 2

    def round(self):
        if self.random.random() < 0.12:
            return self.interrupted()
        stop, size, failed, steps = (
            self.random.random() < 0.7,
            self.random.choice([1, 1, 2, 3, 4]),
            False,
            [],
        )
        for _ in range(size):
            step = self.random.choice(self.kinds())()
            if failed and stop:
                step.abort()
            else:
                step.effect()
                failed = failed or step.expected["status"] == "error"
            steps.append(step)
            # Nobody knows whether those behind it would run.
            if step.maybe:
                break
        return Round(steps, stop, None)

    def interrupted(self):
        token = self.token()
        # While it compiles or while it runs.
        code = f'println!("{token}"); for _ in 0..6000 {{ {NAP.format(10)} }}'
        first = Step("interrupted", code, ename="Interrupted", maybe=[{"stdout": f"{token}\n"}])
        steps = [first] + [
            self.random.choice(self.kinds())() for _ in range(self.random.choice([0, 1, 2]))
        ]
        for step in steps[1:]:
            step.abort()
        self.process_may_end()
        return Round(steps, True, self.random.uniform(0, 1.2))

    def process_may_end(self):
        """An interrupt may end the process of cells or not."""
        self.unsure |= self.variables
        self.variables.clear()
        self.counters.clear()
        self.thread_may_end()

    def process_ends(self):
        self.absent += [*self.variables, *self.unsure]
        self.variables.clear()
        self.unsure.clear()
        self.counters.clear()
        self.thread_may_end()

    def thread_may_end(self):
        self.lost |= self.due
        self.due.clear()

    # Text

    def line(self):
        token = self.token()
        return Step("line", f'println!("{token}");', stdout=f"{token}\n")

    def part(self):
        token = self.token()
        flush = self.random.choice(["", "std::io::Write::flush(&mut std::io::stdout()).unwrap();"])
        return Step("part of a line", f'print!("{token}"); {flush}', stdout=token)

    def on_stderr(self):
        token = self.token()
        if self.random.random() < 0.5:
            return Step("stderr", f'eprintln!("{token}");', stderr=f"{token}\n")
        return Step("part of a line on stderr", f'eprint!("{token}");', stderr=token)

    def long(self):
        token, lines = self.token(), self.random.choice([100, 1000, 5000])
        text = "".join(f"{token} {i}\n" for i in range(lines))
        return Step(
            "long text", f'for i in 0..{lines} {{ println!("{token} {{i}}"); }}', stdout=text
        )

    def program(self):
        token = self.token()
        code = f'std::process::Command::new("echo").arg("{token}").status().unwrap();'
        return Step("another program", code, stdout=f"{token}\n")

    def thread(self):
        late = f"late-{self.seed}-{self.number()}"
        nap = NAP.format(self.random.choice([0, 50, 500]))
        code = f'std::thread::spawn(|| {{ {nap} println!("{late}"); }});'
        return Step("thread", code, effect=lambda: self.due.add(late))

    def comment(self):
        return Step("comment", f"// {self.token()}")

    # Errors

    def failing(self, kind, code, ename, **more):
        """A step that prints, makes a variable and fails; the variable must not exist then."""
        token, lost = self.token(), self.name("lost")
        code = f'println!("{token}"); let {lost} = 1; {code}'
        return Step(
            kind,
            code,
            ename=ename,
            stdout=f"{token}\n",
            effect=lambda: self.absent.append(lost),
            **more,
        )

    def panic(self):
        return self.failing("panic", f'panic!("{self.token()}");', "Panic")

    def question(self):
        return self.failing("`?` error", '"<x>".parse::<u8>()?;', "Error")

    def compile_error(self):
        return Step("compile error", f'println!("never"); {self.name("nosuch")}();', ename="E0425")

    def lost_variable(self):
        if not self.absent:
            return self.variable()
        return Step(
            "a lost variable", f"{self.random.choice(self.absent[-3:])}.clone()", ename="E0425"
        )

    def ending(self, kind, code):
        token = self.token()
        code = f'println!("{token}"); {code}'
        return Step(kind, code, ename="ProcessEnded", stdout=f"{token}\n", effect=self.process_ends)

    def killed(self):
        return self.ending("kill -9", KILL)

    def exits(self):
        code = self.random.choice(
            ["std::process::exit(0);", "std::process::exit(3);", "std::process::abort();"]
        )
        return self.ending("exit", code)

    # Variables and items

    def variable(self):
        # Another value for one that exists, in one of three cases.
        old = [*self.variables]
        name = self.random.choice(old) if old and self.random.random() < 0.3 else self.name("v")
        if self.random.random() < 0.5:
            value = text = str(self.random.randrange(10**6))
        else:
            text = literal(self.token())
            value = f"String::from({text})"
        return Step(
            "variable",
            f"let {name} = {value};",
            effect=lambda: self.variables.__setitem__(name, text),
        )

    def use(self):
        if self.unsure and self.random.random() < 0.3:
            name = self.random.choice([*self.unsure])
            lost = {"status": "error", "ename": "E0425", "text": ""}
            return Step(
                "a variable after an interrupt",
                f"{name}.clone()",
                text=self.unsure[name],
                maybe=[lost],
            )
        if not self.variables:
            return self.variable()
        name = self.random.choice([*self.variables])
        return Step("use of a variable", f"{name}.clone()", text=self.variables[name])

    def counter(self):
        if not self.counters or self.random.random() < 0.3:
            name = self.name("c")
            return Step(
                "counter", f"let mut {name} = 0;", effect=lambda: self.counters.__setitem__(name, 0)
            )
        name = self.random.choice([*self.counters])

        def up():
            self.counters[name] += 1
            step.expected["stdout"] = f"{self.counters[name]}\n"

        step = Step("count", f'{name} += 1; println!("{{{name}}}");', effect=up)
        return step

    def function(self):
        if self.functions and self.random.random() < 0.5:
            name = self.random.choice([*self.functions])
            return Step("call", f"{name}()", text=self.functions[name])
        old, value = [*self.functions], str(self.random.randrange(10**6))
        name = self.random.choice(old) if old and self.random.random() < 0.5 else self.name("f")
        effect = lambda: self.functions.__setitem__(name, value)
        return Step("function", f"fn {name}() -> u32 {{ {value} }}", effect=effect)

    def structure(self):
        if self.structs and self.random.random() < 0.5:
            name = self.random.choice([*self.structs])
            field, value = self.structs[name], str(self.random.randrange(100))
            return Step(
                "use of a struct",
                f"{{ let it = {name} {{ {field}: {value} }}; it.{field} }}",
                text=value,
            )
        old, field = [*self.structs], self.random.choice(["a", "b", "c"])
        name = self.random.choice(old) if old and self.random.random() < 0.5 else self.name("S")
        kind = self.random.choice(["u8", "u64", "i32"])
        effect = lambda: self.structs.__setitem__(name, field)
        return Step("struct", f"struct {name} {{ {field}: {kind} }}", effect=effect)

    # Displays and stdin

    def show(self):
        token, ident = self.token(), self.random.choice([None, self.name("d")])
        effect = lambda: self.displays.append(ident) if ident else None
        return Step(
            "display", display({"text/plain": token}, ident), displays=[token], effect=effect
        )

    def update(self):
        if not self.displays:
            return self.show()
        token = self.token()
        code = display({"text/plain": token}, self.random.choice(self.displays), update=True)
        return Step("update", code, updates=[token])

    def mixed(self):
        one, two, three, four = (self.token() for _ in range(4))
        second, fourth = (display({"text/plain": token}) for token in (two, four))
        code = f'print!("{one}"); {second} println!("{three}"); {fourth} 1 + 1'
        return Step("mixed", code, stdout=f"{one}{three}\n", displays=[two, four], text="2")

    def no_stdin(self):
        return Step("asks without stdin", f"{{ {READ} }};", ename="StdinNotSupported")

    def answered(self):
        token = self.token()
        code = f'{{ {READ} print!("{{asked}}"); }};'
        return Step("asks", code, stdout=f"{token}\n", answers=[token])


def sequence(seed):
    """The rounds of a sequence, and its model at the end."""
    model = Model(seed)
    return [model.round() for _ in range(ROUNDS)], model
