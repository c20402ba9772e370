"""Use examples/web in a real browser, as a person would, and take a picture of it.

    python tools/shoot_page.py [docs/pictures/search-page.png]

Needs starlette, uvicorn, playwright (the Python package), and a Chromium that is
installed: `apt-get install chromium`, or the one that CHROMIUM names.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "examples" / "web" / "app.py"
PICTURE = ROOT / "docs" / "pictures" / "search-page.png"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium():
    """Path of a Chromium, or None."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    return found


@contextlib.contextmanager
def served():
    """The example's server; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(APP), "--port", str(port)])
    address = f"http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def use(address, picture):
    """Type, narrow, follow a link, meet a word that nobody knows; raise where it goes wrong."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(),
                                       args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 860, "height": 860}, color_scheme="light")
        complaints = []
        page.on("console", lambda one: one.type == "error" and complaints.append(one.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        hits, first = page.locator("#hits li"), page.locator("#hits .words").first

        page.locator("#q").press_sequentially("volc", delay=30)
        expect(hits).to_have_count(12)                        # as one types, without Enter
        expect(first).to_contain_text("volcan")

        page.locator("#q").fill("small animal with wings")
        expect(first).to_contain_text("hawk")
        expect(page.locator("#note")).to_contain_text("12 nearest of 12,000 senses")
        page.screenshot(path=str(picture))

        page.locator("#has").fill("insect")
        expect(page.locator("#hits .gloss").first).to_contain_text("insect")

        page.goto(address + "?q=volcano")                     # a link to a search
        expect(first).to_contain_text("volcano")
        page.locator("#q").fill("qqzzx <qqzzx>")
        expect(page.locator("#note")).to_contain_text("Nothing found")
        expect(hits).to_have_count(0)
        page.locator("#q").fill("")
        expect(page.locator("#note")).to_have_text("")
        browser.close()
    if complaints:
        raise AssertionError(f"the browser complained: {complaints}")


if __name__ == "__main__":
    if find_chromium() is None:
        sys.exit("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with served() as url:
        use(url, sys.argv[1] if len(sys.argv) > 1 else PICTURE)
