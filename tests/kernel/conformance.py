"""Runs jupyter_kernel_test, the kernels' conformance tests of Jupyter, and prints what passes, is
skipped or fails.

Ends with status 0 if every test of REQUIRED passes and none fails.
"""

import sys
import traceback
import unittest

import jupyter_kernel_test

from checks import display, frame
from session import Session

REQUIRED = {
    "test_clear_output",
    "test_completion",
    "test_display_data",
    "test_error",
    "test_execute_result",
    "test_execute_stderr",
    "test_execute_stdout",
    "test_history",
    "test_inspect",
    "test_is_complete",
    "test_kernel_info",
}


class Conformance(jupyter_kernel_test.KernelTests):
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("hello, stderr");'
    completion_samples = [{"text": "a_variable_to_com", "matches": {"a_variable_to_complete"}}]
    complete_code_samples = [
        "1 + 1",
        'println!("hello");',
        "fn f(x: u8) -> u8 { x }",
        "let a = 1;\na",
        "",
    ]
    incomplete_code_samples = ["fn f() {", 'println!("hello"', 'let s = "abc', "if true {\n    1"]
    invalid_code_samples = ["let = = 3;", "1 + 1)"]
    code_generate_error = 'panic!("on purpose");'
    code_execute_result = [
        {"code": "6 + 7", "result": "13"},
        {"code": "[1, 2, 3]", "result": "[1, 2, 3]"},
        {"code": '"text"', "result": '"text"'},
    ]
    code_display_data = [
        {"code": display({"text/html": "<b>x</b>", "text/plain": "x"}), "mime": "text/html"},
        {"code": display({"image/png": "iVBORw0KGgo=", "text/plain": "x"}), "mime": "image/png"},
    ]
    code_history_pattern = "6 ? 7"
    # As ipykernel's own conformance tests have it.
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "a_variable_to_complete"
    code_clear_output = frame("clear_output", {"wait": False})

    @classmethod
    def setUpClass(cls):
        cls.session = Session()
        cls.session.run("let a_variable_to_complete = 17u8;")
        # The analysis of the standard library, for which the tests would wait only some seconds.
        cls.session.complete("a_variable_to_com")
        cls.km, cls.kc = cls.session.manager, cls.session.client

    @classmethod
    def tearDownClass(cls):
        cls.session.close()


class Report(unittest.TestResult):
    """Which tests passed, with the reasons of the others."""

    def __init__(self):
        super().__init__()
        self.others = {}

    def startTest(self, test):
        super().startTest(test)
        print(f"  {test._testMethodName} …", flush=True)

    def note(self, test, error):
        # A part of a test (subTest) counts for its test; what holds no test is a kernel that does
        # not start.
        name = getattr(getattr(test, "test_case", test), "_testMethodName", str(test))
        self.others.setdefault(name, []).append(error)

    def addError(self, test, error):
        super().addError(test, error)
        self.note(test, "".join(traceback.format_exception(*error)))

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.note(test, "".join(traceback.format_exception(*error)))

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            self.note(test, f"{subtest}\n" + "".join(traceback.format_exception(*error)))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        # Where a part is skipped, the others decide.
        if not hasattr(test, "test_case"):
            self.note(test, f"skipped: {reason}")


names = unittest.TestLoader().getTestCaseNames(Conformance)
unknown = REQUIRED - set(names)
assert (
    not unknown
), f"expected these tests in jupyter_kernel_test {jupyter_kernel_test.__version__}: {unknown}"
report = Report()
unittest.TestSuite(map(Conformance, names)).run(report)
# Without a kernel none of them runs.
started = report.testsRun == len(names)
passed = {name for name in names if started and name not in report.others}
for name in names:
    reasons = report.others.get(name, ["passed" if name in passed else "not run"])
    print(f"{name}: {' | '.join(reasons).strip()}")
for name in sorted(set(report.others) - set(names)):
    print(f"{name}: {report.others[name][0]}")
failed = {name for name, reasons in report.others.items() if not reasons[0].startswith("skipped: ")}
skipped = len(report.others) - len(failed)
print(
    f"jupyter_kernel_test {jupyter_kernel_test.__version__}: "
    f"{len(passed)} passed, {skipped} skipped, {len(failed)} failed"
)
if failed or not REQUIRED <= passed:
    sys.exit(f"expected to pass, and did not: {', '.join(sorted(failed | (REQUIRED - passed)))}")
