"""Notebooks executed and exported by Jupyter's programs: nbclient, nbconvert (HTML, Markdown,
LaTeX, PDF), papermill.

A failing notebook must fail there; figures and tables of the crate must be in every format.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from checks import FIGURE, TABLE, contains, equal, holds, is_png, new_folder, run
from session import FOLDER, LONG, OPEN, write_kernelspec

NAME = "rust-under-test"
ENVIRONMENT = write_kernelspec(new_folder(), NAME)
PROJECT = os.path.dirname(os.path.abspath(FOLDER))
FAILING = ['println!("first");', 'println!("second"); panic!("on purpose");', 'println!("third");']
SHOWING = [OPEN.replace('".."', f'"{PROJECT}"'), f"let figure = {FIGURE}.figure()?;\nfigure", TABLE]


def notebook(cells, folder, name="page.ipynb"):
    """Writes a notebook of code cells."""
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    page.metadata["kernelspec"] = {"name": NAME, "display_name": NAME, "language": "rust"}
    nbformat.write(page, Path(folder) / name)
    return page


def command(*arguments, folder):
    """Runs a module of Python as a program; gives its status and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=2 * LONG,
    )
    return done.returncode, done.stdout + done.stderr


def convert(to, folder):
    """Executes and converts the notebook of a folder."""
    timeout = f"--ExecutePreprocessor.timeout={LONG}"
    return command("nbconvert", "--execute", timeout, "--to", to, "page.ipynb", folder=folder)


def exported(to, ending):
    """The text of the notebook with a figure and a table in another format, and the folder in which
    it is."""
    folder = Path(new_folder())
    notebook(SHOWING, folder)
    status, said = convert(to, folder)
    equal(f"status of nbconvert --to {to}", (status, said if status else ""), (0, ""))
    return (folder / f"page.{ending}").read_text(), folder


def pictures(folder):
    """The PNG files beside an exported notebook."""
    found = sorted(folder.glob("page_files/*.png"))
    holds(
        "the figure is a file",
        found and found[0].read_bytes()[:4] == b"\x89PNG",
        list(folder.rglob("*")),
    )
    return found


def nbclient_fails():
    """nbclient stops at the failing cell with a CellExecutionError; the cell behind it does not
    run."""
    os.environ.update(ENVIRONMENT)
    page = notebook(FAILING, new_folder())
    try:
        NotebookClient(page, kernel_name=NAME, timeout=LONG).execute()
        raised = None
    except CellExecutionError as error:
        raised = error
    holds("CellExecutionError", raised is not None, "no error")
    equal("name and message", (raised.ename, raised.evalue), ("Panic", "on purpose"))
    kinds = [[output.output_type for output in cell.outputs] for cell in page.cells]
    equal("outputs of the cells", kinds, [["stream"], ["stream", "error"], []])
    equal("number of the third cell", page.cells[2].execution_count, None)


def nbconvert_fails():
    """nbconvert ends with another status than 0 on a failing notebook, and writes no page."""
    folder = Path(new_folder())
    notebook(FAILING, folder)
    status, said = convert("html", folder)
    holds("status", status != 0, said)
    contains("what it says", said, "CellExecutionError", "on purpose")
    holds("no page", not (folder / "page.html").exists(), list(folder.iterdir()))


def papermill_fails():
    """papermill ends with another status than 0 on a failing notebook, whose third cell has not
    run."""
    folder = Path(new_folder())
    notebook(FAILING, folder)
    status, said = command("papermill", "page.ipynb", "out.ipynb", "-k", NAME, folder=folder)
    holds("status", status != 0, said)
    contains("what it says", said, "PapermillExecutionError", "on purpose")
    page = nbformat.read(folder / "out.ipynb", 4)
    # papermill inserts cells that point to the error.
    printed = [output.get("text", "") for cell in page.cells for output in cell.get("outputs", [])]
    holds("what ran", "first\n" in printed and "third\n" not in printed, printed)


def papermill():
    """papermill stores the figure and the table with all their types."""
    folder = Path(new_folder())
    notebook(SHOWING, folder)
    status, said = command("papermill", "page.ipynb", "out.ipynb", "-k", NAME, folder=folder)
    equal("status", (status, said if status else ""), (0, ""))
    cells = nbformat.read(folder / "out.ipynb", 4).cells
    equal(
        "types of outputs",
        [[o.output_type for o in c.outputs] for c in cells],
        [[], *[["execute_result"]] * 2],
    )
    figure, table = (cell.outputs[0].data for cell in cells[1:])
    holds("image/png", is_png(figure.get("image/png", "")), figure.keys())
    contains("text/html", table.get("text/html", ""), "<td>fc6</td>")


def html():
    """HTML has the figure as a picture and the table."""
    page, _ = exported("html", "html")
    # A page of nbconvert has small pictures of its own.
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    holds(
        "picture",
        any(is_png(data, least=100) for data in found),
        f"{len(found)} pictures in {page[-3000:]}",
    )
    contains("table", page, "<td>fc6</td>", "<td>0.82</td>")


def markdown():
    """Markdown has the figure, as a file or within the page, and the table."""
    page, folder = exported("markdown", "md")
    files = [f"page_files/{path.name}" for path in pictures(folder)]
    # Where a figure has text/html, Markdown shows that, which contains the picture.
    shown = (
        any(file in page for file in files) or "<img" in page and "data:image/png;base64," in page
    )
    holds("picture", shown, page)
    rows = [r"\| *fc6 *\| *0\.41 *\|", r"<td>fc6</td>\s*<td>0\.41</td>"]
    holds("table", any(re.search(row, page) for row in rows), page)


def latex():
    """LaTeX includes the figure's file and has the table as a tabular."""
    page, folder = exported("latex", "tex")
    files = [f"page_files/{path.name}" for path in pictures(folder)]
    # \adjustimage is the \includegraphics of the package adjustbox.
    shown = [
        re.search(r"\\(includegraphics|adjustimage)[^\n]*" + re.escape(file), page)
        for file in files
    ]
    holds("picture", any(shown), page[-3000:])
    tables = re.findall(r"\\begin\{(tabular|longtable)\}(.*?)\\end\{\1\}", page, re.DOTALL)
    holds("table", any(re.search(r"fc6\s*&\s*0\.41", table) for _, table in tables), page[-3000:])


def pdf():
    """A PDF, printed by a browser, has the figure as an image and the table as text."""
    browsers = ["chromium", "chromium-browser", "google-chrome"]
    programs = [
        next(filter(None, map(shutil.which, names)), None)
        for names in (browsers, ["pdftotext"], ["pdfimages"])
    ]
    if not all(programs):
        assert not os.environ.get(
            "CI"
        ), "in CI this must run: no Chromium or no poppler (pdftotext, pdfimages) on PATH"
        print("skipped: no Chromium or no poppler (pdftotext, pdfimages) on PATH")
        return
    _, folder = exported("html", "html")
    browser, pdftotext, pdfimages = programs
    # A page of nbconvert loads scripts from other hosts, which the figure and the table do not
    # need.
    offline = [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
    ]
    printed = [
        browser,
        "--headless",
        *offline,
        f"--print-to-pdf={folder}/page.pdf",
        (folder / "page.html").as_uri(),
    ]
    subprocess.run(printed, check=True, capture_output=True, timeout=120)
    text = subprocess.run(
        [pdftotext, "-layout", folder / "page.pdf", "-"], check=True, capture_output=True, text=True
    )
    holds(
        "table",
        re.search(r"fc6\s+0\.41", text.stdout) and re.search(r"fc8\s+0\.82", text.stdout),
        text.stdout,
    )
    listed = subprocess.run(
        [pdfimages, "-list", folder / "page.pdf"], check=True, capture_output=True, text=True
    ).stdout
    sizes = [(int(line.split()[3]), int(line.split()[4])) for line in listed.splitlines()[2:]]
    holds("picture", any(width >= 200 and height >= 100 for width, height in sizes), listed)


run(nbclient_fails, nbconvert_fails, papermill_fails, papermill, html, markdown, latex, pdf)
