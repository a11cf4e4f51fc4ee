"""Opens notebooks of the Rust kernel in JupyterLab as a person does, and looks at what the page
shows.

Usage: kernel.py SPEC FOLDER PICTURES, with SPEC the `kernel.json` of a kernel, FOLDER a folder
below the project's, and PICTURES a folder for screenshots; KERNEL_ARGV names another kernel (see
tests/kernel/session.py). Ends with status 0 if progress moved in place, Run All stopped at the
failing cell, and an explorer in a notebook that is not trusted shows a still image.
"""

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

import nbformat
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "kernel"))
from session import FOLDER, LONG, OPEN, write_kernelspec  # noqa: E402

NAME = "rust-under-test"
OUTPUT = ".jp-OutputArea-output"
TEXT = f'{OUTPUT}[data-mime-type="application/vnd.jupyter.stdout"]'
# JupyterLab shows a traceback as text of stderr.
ERROR = ", ".join(
    f'{OUTPUT}[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr")
)
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
STEPS = 20
PROGRESS = f"""for i in 1..={STEPS} {{
    print!("\\r{{i}} of {STEPS}");
    std::io::Write::flush(&mut std::io::stdout())?;
    std::thread::sleep(std::time::Duration::from_millis(150));
}}"""
FAILS = 'println!("second");\npanic!("on purpose");'
IMAGES = "let images = Tensor::zeros((6, 3, 64, 64), DType::F32, &Device::Cpu)?;"
EXPLORER = 'Explorer::new(&images)?.axis("layer", ["conv5", "fc6"]).axis("sample", 1..=3)'


def expect(true, what):
    if not true:
        sys.exit(what)


def notebook(path, cells):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    page.metadata["kernelspec"] = {"name": NAME, "display_name": NAME, "language": "rust"}
    nbformat.write(page, path)
    return page


def serve(folder, home, environment, log):
    """Starts JupyterLab on a free port; gives the process, the address and the token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    settings = home / "settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    # Every cell stays in the page, so that it can be looked at.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
        ]
        + [
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}",
        ]
        + [f"--ServerApp.root_dir={folder}"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        expect(server.poll() is None, f"JupyterLab ended with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
            return server, address, token
        except OSError:
            time.sleep(0.2)
    sys.exit("JupyterLab did not answer within two minutes")


def open_notebook(page, address, token, name):
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    # The status bar tells the kernel's own word; before it, what is asked of the kernel may be
    # lost.
    page.get_by_text("| Idle").wait_for()


def progress_and_failure(page, pictures):
    """Runs all cells: the first prints progress, the second fails, the third must not run."""
    first, second, third = (page.locator(".jp-CodeCell").nth(i) for i in range(3))
    prompt = lambda cell: cell.locator(".jp-InputPrompt").inner_text().strip()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    began, seen = time.monotonic(), []
    while not second.locator(ERROR).count():
        texts = [text.strip() for text in first.locator(TEXT).all_inner_texts() if text.strip()]
        expect(len(texts) <= 1, f"progress moves to {len(texts)} outputs: {texts}")
        expect(
            all(len(text.splitlines()) == 1 for text in texts),
            f"progress has several lines: {texts}",
        )
        if texts and texts[0] not in seen:
            seen.append(texts[0])
            if len(seen) == 3:
                page.screenshot(path=pictures / "kernel-progress.png")
        if time.monotonic() - began > LONG:
            page.screenshot(path=pictures / "kernel-failed.png")
            shown = page.locator(".jp-CodeCell").all_inner_texts()
            sys.exit(f"after {LONG} s the second cell has not failed: progress {seen}, {shown}")
        time.sleep(0.03)
    print(f"progress: {seen}")
    expect(len(seen) >= 3, f"expected progress that moves, found {seen}")
    expect(
        first.locator(TEXT).all_inner_texts()[-1].strip() == f"{STEPS} of {STEPS}",
        f"progress ended at {seen[-1:]}",
    )
    page.wait_for_function(
        "![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.includes('*'))"
    )
    page.screenshot(path=pictures / "kernel-failure.png")
    message = second.locator(ERROR).all_inner_texts()
    expect(len(message) == 1 and "on purpose" in message[0], f"expected one error, found {message}")
    expect(
        "second" in "".join(second.locator(TEXT).all_inner_texts()),
        "the failing cell's text is not shown",
    )
    found = prompt(third), third.locator(OUTPUT).count()
    expect(
        found == ("[ ]:", 0),
        f"expected that the third cell does not run, found its prompt and outputs {found}",
    )
    print("Run All stopped at the failing cell")


def untrusted(page, pictures):
    """The explorer in a notebook that JupyterLab has not executed: its script does not run."""
    image = page.locator(f"{OUTPUT} img").first
    image.wait_for()
    image.scroll_into_view_if_needed()
    size, box = image.evaluate("i => [i.naturalWidth, i.naturalHeight]"), image.bounding_box()
    page.screenshot(path=pictures / "kernel-untrusted.png")
    trust = page.locator(".jp-StatusItem-trust").get_attribute("title")
    expect("not trusted" in trust, f"expected a notebook that is not trusted, found {trust!r}")
    expect(page.locator(f"{OUTPUT} canvas").count() == 0, "the script of the explorer has run")
    expect(
        min(size) >= 64 and box and min(box["width"], box["height"]) >= 64,
        f"the image is {size}, shown as {box}",
    )
    print(f"a still image of {size} pixels is shown as {box['width']:.0f} × {box['height']:.0f}")


def main():
    pictures = Path(sys.argv[3])
    chromium = next(
        filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
    )
    if not chromium:
        missing = "no Chromium on PATH; install it (Debian: apt install chromium)"
        expect(not os.environ.get("CI"), f"in CI this must run: {missing}")
        print(f"skipped: {missing}")
        return
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        folder = home / "notebooks"
        folder.mkdir()
        environment = write_kernelspec(home / "share", NAME)
        for name in ("DATA", "CONFIG", "RUNTIME"):
            environment[f"JUPYTER_{name}_DIR"] = str(home / name.lower())
        # Or it would open what an earlier test had open.
        environment["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
        environment["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
        os.environ.update(environment)
        notebook(folder / "progress.ipynb", [PROGRESS, FAILS, 'println!("third");'])
        # Executed elsewhere, so that this JupyterLab does not trust it.
        project = os.path.dirname(os.path.abspath(FOLDER))
        explorer = notebook(
            folder / "explorer.ipynb", [OPEN.replace('".."', f'"{project}"'), IMAGES, EXPLORER]
        )
        NotebookClient(explorer, kernel_name=NAME, timeout=LONG).execute()
        nbformat.write(explorer, folder / "explorer.ipynb")
        with open(home / "server.log", "w") as log:
            server, address, token = serve(folder, home, environment, log)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch_persistent_context(
                    home / "profile",
                    executable_path=chromium,
                    args=FLAGS,
                    viewport={"width": 1280, "height": 1000},
                )
                page = browser.pages[0]
                page.set_default_timeout(120_000)
                open_notebook(page, address, token, "progress.ipynb")
                progress_and_failure(page, pictures)
                open_notebook(page, address, token, "explorer.ipynb")
                untrusted(page, pictures)
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
