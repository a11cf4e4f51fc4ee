"""Opens a notebook in JupyterLab as a person does, runs all of it, and looks at what the page shows.

Usage: lab.py COMMAND NOTEBOOK PICTURES, with COMMAND the `invariances` program, NOTEBOOK a notebook that prints
progress and shows a figure, and PICTURES a folder for screenshots. Ends with status 0 if the page showed, while
cells were running, text of theirs; at the end a figure; and no error.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

# Lines of text, and progress bars that move in place.
TEXT = (
    '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stdout"],'
    ".jp-OutputArea-output:has(progress)"
)
ERROR = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def copy(notebook, folder):
    """The notebook without outputs, in a folder where nobody's work is; the crate is meant where it lies."""
    page = json.loads(notebook.read_text())
    project = notebook.resolve().parent.parent
    for cell in page["cells"]:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        cell["source"] = source.replace('path = ".."', f'path = "{project}"')
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    page["metadata"]["kernelspec"] = {
        "name": "invariances",
        "display_name": "Rust (invariances)",
        "language": "rust",
    }
    (folder / notebook.name).write_text(json.dumps(page))
    settings = notebook.parent / "evcxr.toml"
    if settings.exists():
        shutil.copy(settings, folder)
    return sum(cell["cell_type"] == "code" and bool(cell["source"].strip()) for cell in page["cells"])


def serve(command, folder, home, log):
    """Starts JupyterLab on a free port; gives the process and the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    settings = home / "settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    # Every cell stays in the page, so that it can be counted.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    server = subprocess.Popen(
        [command, "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
        + ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"],
        env=os.environ
        | {
            "INVARIANCES_OUT": str(home / "out"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            # Or it would open what an earlier test had open.
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        },
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"JupyterLab ended with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
            return server, address, token
        except OSError:
            time.sleep(0.2)
    sys.exit("JupyterLab did not answer within two minutes")


def look(page, cells, pictures):
    """Runs all cells from the menu and follows them to the end."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    # The status bar tells the kernel's own word; before it, what is asked of the kernel may be lost.
    page.get_by_text("Rust (invariances) | Idle").wait_for()
    asked = 0

    def ask():
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        return asked + 1

    asked = ask()
    began, seen = time.monotonic(), None
    while True:
        prompts = [text.strip() for text in page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()]
        running = "[*]:" in prompts
        done = sum(prompt.startswith("[") and prompt not in ("[*]:", "[ ]:") for prompt in prompts)
        texts = [text.strip() for text in page.locator(TEXT).all_inner_texts() if text.strip()]
        if running and texts and seen is None:
            seen = texts[-1].splitlines()[-1]
            print(f"{time.monotonic() - began:6.1f} s  text while a cell runs: {seen}")
            page.screenshot(path=pictures / "progress.png")
        if not running and done == cells:
            break
        if not running and done == 0 and asked < 3 and time.monotonic() - began > 10 * asked:
            print(f"{time.monotonic() - began:6.1f} s  nothing runs yet: asked again")
            asked = ask()
            continue
        if page.locator(ERROR).count() or (not running and time.monotonic() - began > 60):
            page.screenshot(path=pictures / "failed.png")
            message = "\n".join(page.locator(ERROR).all_inner_texts())
            sys.exit(f"{done} of {cells} cells ran. {message}")
        if time.monotonic() - began > 900:
            sys.exit(f"after 15 minutes {done} of {cells} cells have run")
        time.sleep(0.1)
    print(f"{time.monotonic() - began:6.1f} s  {cells} cells ran")
    reports = page.locator(".jp-OutputArea-output [data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    if page.locator(ERROR).count() or reports:
        page.screenshot(path=pictures / "failed.png")
        sys.exit("a cell failed: " + "\n".join(reports))
    images = page.locator(".jp-OutputArea-output img")
    sizes = [images.nth(i).evaluate("i => [i.naturalWidth, i.naturalHeight]") for i in range(images.count())]
    print(f"figures: {sizes}")
    if not any(width >= 100 and height >= 40 for width, height in sizes):
        page.screenshot(path=pictures / "failed.png")
        sys.exit("no figure is on the page")
    if seen is None:
        sys.exit("no text was on the page while a cell was running")
    for i, (width, height) in enumerate(sizes):
        if width >= 100 and height >= 40:
            images.nth(i).scroll_into_view_if_needed()
    page.screenshot(path=pictures / "figure.png")


def main():
    command, notebook, pictures = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if chromium is None:
        sys.exit("no Chromium on PATH; install it (Debian: apt install chromium)")
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        folder = home / "notebooks"
        folder.mkdir()
        cells = copy(notebook, folder)
        with open(home / "server.log", "w") as log:
            server, address, token = serve(command, folder, home, log)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch_persistent_context(
                    home / "profile",
                    executable_path=chromium,
                    args=FLAGS,
                    viewport={"width": 1280, "height": 1400},
                )
                page = browser.pages[0]
                page.set_default_timeout(120_000)
                page.goto(f"{address}/lab/tree/{notebook.name}?token={token}")
                look(page, cells, pictures)
                browser.close()
        except BaseException:
            print((home / "server.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            os.killpg(server.pid, signal.SIGINT)
            time.sleep(0.2)
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


main()
