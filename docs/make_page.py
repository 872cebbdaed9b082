"""Make the picture of the page in the documentation, docs/page.png: a phantom, the demo models, a click on each canal.

    python docs/make_page.py [FOLDER]

Needs the extras of development and a chromium; takes minutes, because graphics are drawn by the processor.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from umamba2.synthetic import write_phantoms

SEED = 9001
SIZE = {"width": 1280, "height": 720}
# The place in the viewer, mm, of the voxel of a structure that lies nearest to its centre.
NEAREST = """(shown) => {
  const { viewer, state } = umamba2, { shape, spacing } = viewer.grid(), drawn = viewer.nv.drawBitmap;
  const { centre } = state.layers.whole.rows.find((row) => row.shown === shown);
  let best = [Infinity];
  for (let i = 0; i < drawn.length; i++) {
    if (drawn[i] !== shown) continue;
    const at = [i % shape[0], Math.floor(i / shape[0]) % shape[1], Math.floor(i / shape[0] / shape[1])];
    const place = at.map((n, k) => n * spacing[k]);
    const away = Math.hypot(...place.map((mm, k) => mm - centre[k]));
    if (away < best[0]) best = [away, place];
  }
  return best[1];
}"""


def idle(page: Page) -> None:
    """Wait until the page has done what it was asked to do."""
    time.sleep(0.5)
    while page.evaluate("!window.umamba2?.ready || umamba2.state.acting > 0"):
        time.sleep(0.2)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def main(folder: Path) -> None:
    """Write page.png into a folder."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(
            [sys.executable, "-m", "umamba2", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
        ) as server,
        sync_playwright() as playwright,
    ):
        try:
            (case,) = write_phantoms(scratch, 1, SEED)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
            )
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(900_000)
            assert server.stdout is not None
            page.goto(server.stdout.readline().strip())
            idle(page)
            page.set_input_files("#scan-files", str(Path(scratch, f"images/{case}.mha")))
            idle(page)
            page.click("#segment")
            idle(page)
            for side, shown in (("right", 4), ("left", 3)):
                page.click(f"#modes [data-mode={side}]")
                page.evaluate("(place) => umamba2.viewer.goTo(place)", page.evaluate(NEAREST, shown))
                page.keyboard.press("Enter")
                idle(page)
            picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
            # A palette is a quarter of the size; this one keeps the colours of small things.
            small = picture.quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=5, dither=Image.Dither.NONE)
            small.save(folder / "page.png", optimize=True)
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
