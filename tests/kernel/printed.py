"""Every figure and every table of an executed notebook is in its PDF.

Usage: printed.py SPEC FOLDER NOTEBOOK. nbconvert makes the page, a browser prints it, poppler reads the PDF.
"""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat

from checks import holds, new_folder, run

NOTEBOOK = Path(sys.argv.pop())


class Cells(HTMLParser):
    """The texts of the cells of tables."""

    def __init__(self):
        super().__init__()
        self.cells, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def letters(text):
    """The letters and digits of a text: a PDF breaks lines and words elsewhere."""
    return re.sub(r"[\W_]+", "", text)


def printed(folder):
    """Prints the notebook of a folder; gives the PDF."""
    convert = [sys.executable, "-m", "nbconvert", "--to", "html", "page.ipynb"]
    subprocess.run(convert, cwd=folder, check=True, capture_output=True)
    browsers = filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"]))
    # A page of nbconvert loads scripts from other hosts, which nothing here needs.
    options = ["--headless", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-sandbox", "--disable-gpu"]
    places = [f"--user-data-dir={folder}/profile", f"--print-to-pdf={folder}/page.pdf"]
    page = (folder / "page.html").as_uri()
    subprocess.run([next(browsers), *options, *places, page], check=True, capture_output=True)
    return folder / "page.pdf"


def figures_and_tables():
    """Every figure and every table of the notebook is in its PDF."""
    page = nbformat.read(NOTEBOOK, 4)
    data = [
        output.data
        for cell in page.cells
        for output in cell.get("outputs", [])
        if output.output_type in ("display_data", "execute_result")
    ]
    figures = [one for one in data if "image/png" in one or "image/jpeg" in one]
    tables = [one["text/html"] for one in data if "<table" in one.get("text/html", "")]
    holds("the notebook has figures and tables", figures and tables, [list(one) for one in data])
    for one in data:
        holds("text/plain beside the others", "text/plain" in one, list(one))
    folder = Path(new_folder())
    nbformat.write(page, folder / "page.ipynb")
    pdf = printed(folder)
    listed = subprocess.run(["pdfimages", "-list", pdf], capture_output=True, text=True, check=True)
    images = [line for line in listed.stdout.splitlines()[2:] if " image " in line]
    holds(f"{len(figures)} figures are images", len(images) >= len(figures), listed.stdout)
    text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
    text, missing, number = letters(text), [], 0
    for table in tables:
        parser = Cells()
        parser.feed(table)
        number += len(parser.cells)
        missing += [cell for cell in parser.cells if letters(cell) not in text]
    holds(f"{number} cells of {len(tables)} tables are text", number and not missing, missing)


run(figures_and_tables)
