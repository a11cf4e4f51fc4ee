"""What a request to the kernel caused: its reply and every message on iopub that has it as its
parent."""

import re
import time

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Request:
    """A request, with its replies and its messages on iopub in the order in which they came.

    `states` are the execution states, `late` the messages that came after `idle`. `done` is true
    once there are a reply and `idle`.
    """

    def __init__(self, kind, ident):
        self.kind, self.id = kind, ident
        self.replies, self.states, self.messages, self.late = [], [], [], []
        self.began, self.seconds = time.monotonic(), 0.0

    @property
    def done(self):
        return bool(self.replies) and "idle" in self.states

    @property
    def reply(self):
        return self.replies[0]["content"] if self.replies else {}

    @property
    def status(self):
        return self.reply.get("status", "")

    def take(self, message):
        """Adds a message of iopub."""
        kind, content = message["msg_type"], message["content"]
        if "idle" in self.states:
            self.late.append((kind, content))
        if kind == "status":
            self.states.append(content["execution_state"])
        else:
            self.messages.append((kind, content))
        self._stop_clock()

    def answer(self, message):
        """Adds a reply."""
        self.replies.append(message)
        self._stop_clock()

    def _stop_clock(self):
        if self.done and not self.seconds:
            self.seconds = time.monotonic() - self.began

    def faults(self, late_allowed=False):
        """What breaks the protocol's rules: a list of sentences, empty if nothing does."""
        found = []
        if len(self.replies) != 1:
            found.append(f"expected one reply, found {len(self.replies)}")
        if self.states != ["busy", "idle"]:
            found.append(f"expected the states busy and idle, found {self.states}")
        if self.late and not late_allowed:
            found.append(f"expected nothing after idle, found {self.late}")
        return found

    def __str__(self):
        replies = [reply["content"] for reply in self.replies]
        return f"{self.kind}: states {self.states}, replies {replies}, {self.messages}"


class Cell(Request):
    """An execute_request. `answers` are what it is told on stdin, `prompts` what it asked there."""

    def __init__(self, code, ident, silent=False, answers=()):
        super().__init__("execute_request", ident)
        self.code, self.silent = code, silent
        self.answers, self.prompts = list(answers), []

    def of(self, kind):
        """The contents of its messages of a type."""
        return [content for found, content in self.messages if found == kind]

    def printed(self, name):
        return "".join(c["text"] for c in self.of("stream") if c["name"] == name)

    @property
    def stdout(self):
        return self.printed("stdout")

    @property
    def stderr(self):
        return self.printed("stderr")

    @property
    def result(self):
        """The final expression by type, `{}` if there is none."""
        results = self.of("execute_result")
        return results[0]["data"] if results else {}

    @property
    def text(self):
        return self.result.get("text/plain", "")

    @property
    def displays(self):
        """Its displays by type, in order, without the final expression."""
        return [content["data"] for content in self.of("display_data")]

    @property
    def ename(self):
        errors = self.of("error")
        return errors[0]["ename"] if errors else ""

    @property
    def evalue(self):
        errors = self.of("error")
        return COLOURS.sub("", errors[0]["evalue"]) if errors else ""

    @property
    def error(self):
        """All that its errors say, without colours."""
        texts = ["\n".join([c["ename"], c["evalue"], *c["traceback"]]) for c in self.of("error")]
        return COLOURS.sub("", "\n".join(texts))

    @property
    def outputs(self):
        """Its outputs in order: `("stdout", text)`, and `(type, content)` for others. Text that
        follows text is joined."""
        found = []
        for kind, content in self.messages:
            if kind == "stream":
                kind, content = content["name"], content["text"]
                if found and found[-1][0] == kind:
                    content = found.pop()[1] + content
            elif kind == "execute_input":
                continue
            found.append((kind, content))
        return found

    def faults(self, late_allowed=False):
        found = super().faults(late_allowed)
        errors, results, inputs = (
            self.of(kind) for kind in ("error", "execute_result", "execute_input")
        )
        if self.status not in ("ok", "error", "aborted"):
            found.append(f"expected the status ok, error or aborted, found {self.status!r}")
        if len(errors) != (self.status == "error") and not self.silent:
            found.append(
                f"expected one error where the status is error and none elsewhere, found {errors}"
            )
        if self.status == "error" and errors:
            said = errors[0]
            if (self.reply.get("ename"), self.reply.get("evalue")) != (
                said["ename"],
                said["evalue"],
            ):
                found.append(
                    f"expected the same error in reply and message, found {self.reply} and {said}"
                )
            if not said["traceback"] or not all(
                isinstance(line, str) for line in said["traceback"]
            ):
                found.append(f"expected a traceback of lines, found {said['traceback']}")
        if len(results) > 1:
            found.append(f"expected one execute_result at most, found {results}")
        if self.status == "aborted" and self.messages:
            found.append(f"expected no output of a request that was aborted, found {self.messages}")
        if self.status in ("ok", "error") and not self.silent:
            counts = [(c["code"], c["execution_count"]) for c in inputs]
            if counts != [(self.code, self.reply.get("execution_count"))]:
                found.append(f"expected its code and count in execute_input, found {inputs}")
            elif self.messages[0][0] != "execute_input":
                found.append(f"expected execute_input first, found {self.messages[0]}")
        return found

    def __str__(self):
        shown = [(kind, content) for kind, content in self.messages if kind != "execute_input"]
        return (
            f"{self.code}\n  status {self.status!r}, states {self.states}, outputs {shorten(shown)}"
        )


def shorten(value, most=3000):
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} … ({len(text)} characters)"
