"""Opens the page that `run` writes as a person does, from the file, and moves what can be moved on it.

Usage: gallery.py INDEX PICTURES, with INDEX the page and PICTURES a folder for screenshots. Ends with status 0 if every
figure and film is shown, every claim has words and a number, every link leads to a file, and what a reader moves follows
slider and pointer.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from playwright.sync_api import sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PLACE = "c => c.getAttribute('aria-label')"
PIXELS = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).join()"


def expect(true, what):
    if not true:
        sys.exit(what)


def figures(page):
    images = page.locator("article img")
    for i in range(images.count()):
        image = images.nth(i)
        image.scroll_into_view_if_needed()
        image.evaluate("i => i.decode()")
        width, height = image.evaluate("i => [i.naturalWidth, i.naturalHeight]")
        expect(width >= 40 and height >= 40, f"{image.get_attribute('src')} is {width} × {height}")
    return images.count()


def claims(page):
    items = page.locator("ul.claims li")
    for text in items.all_inner_texts():
        expect(len(text.split()) > 3 and any(c.isdigit() for c in text), f"a claim without words or number: {text!r}")
    return items.count()


def links(page, folder):
    targets = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    files = {unquote(t) for t in targets if not t.startswith(("#", "http"))}
    for name in files:
        expect((folder / name).is_file(), f"a link leads to {name}, which is not there")
    return len(files)


def move(page, element):
    element.scroll_into_view_if_needed()
    frame = element.element_handle().content_frame()
    root = frame.wait_for_selector("figure[data-ready=yes]")
    canvas = root.wait_for_selector("canvas")
    sliders = root.query_selector_all("input[type=range]")
    labels = [slider.get_attribute("aria-label") for slider in sliders]

    def at():
        """The place that the canvas says it shows, by axis; the words beside the sliders say the same."""
        said = canvas.evaluate(PLACE)
        words = [output.inner_text() for output in root.query_selector_all("output")]
        expect(said == ", ".join(map(": ".join, zip(labels, words))), f"{said} is shown, beside it {words}")
        return words

    seen = {canvas.evaluate(PIXELS)}
    first = at()
    # Each slider, by its keys: another place of its axis, and of no other.
    for i, slider in enumerate(sliders):
        before, most = at(), int(slider.get_attribute("max"))
        slider.focus()
        page.keyboard.press("ArrowLeft" if int(slider.input_value()) == most else "ArrowRight")
        changed = [a != b for a, b in zip(before, at())]
        expect(changed == [k == i for k in range(len(sliders))], f"{labels[i]} moved from {before} to {at()}")
        seen.add(canvas.evaluate(PIXELS))
    # The pointer: from one corner to the other, the first axis and the last.
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    corner = at()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)
    other = at()
    moved = [a != b for a, b in zip(corner, other)]
    ends = {0, len(sliders) - 1}
    expect(moved == [k in ends for k in range(len(sliders))], f"the pointer moved from {corner} to {other}")
    seen.add(canvas.evaluate(PIXELS))
    expect(len(seen) > len(sliders), f"{len(seen)} different images were seen in {len(sliders) + 2} places")
    print(f"moved: began at {first}, {len(seen)} images seen")


def main():
    index, pictures = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    expect(chromium, "no Chromium on PATH; install it (Debian: apt install chromium)")
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport={"width": 1280, "height": 1400}
        )
        page = browser.pages[0]
        page.set_default_timeout(60_000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.goto(index.as_uri())
        print(f"{figures(page)} figures, {claims(page)} claims, {links(page, index.parent)} files behind links")
        expect(page.locator("article img").count() and page.locator("ul.claims li").count(), "no figure or no claim")
        frames = page.locator("iframe")
        expect(frames.count(), "nothing to move is on the page")
        for i in range(frames.count()):
            move(page, frames.nth(i))
        page.screenshot(path=pictures / "gallery.png")
        browser.close()
        expect(not problems, f"the page complained: {problems}")


main()
