from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from challenge_names import INTERACTIVE, STSR
from PIL import Image
from report_cases import LOWER, SHAPE, TRAINING, UPPER, Page, blocks, case_of

from umamba2 import cli
from umamba2.anatomy.numberings import from_training
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH
from umamba2.challenges import CHALLENGES
from umamba2.errors import Cancelled
from umamba2.reports.page import make_page, write_report
from umamba2.reports.preview import make_preview


def test_the_page_needs_nothing_from_anywhere(page):
    found = Page(page)
    assert found.references
    assert all(
        reference.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for reference in found.references
    )
    assert "://" not in page
    assert not {"script", "link", "iframe", "object", "embed"} & set(found.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_legend_lists_exactly_the_structures_there_are(mouth, page):
    platform = from_training(ANATOMY)
    present = np.union1d(mouth.labels, mouth.truth)
    assert sorted(Page(page).rows) == sorted(int(platform[number]) for number in present[present > 0])
    swatches = re.findall(r'class="swatch" style="background:(#[0-9a-f]{6})"', page)
    colours = {s.training: "#{:02x}{:02x}{:02x}".format(*s.colour) for s in ANATOMY}
    assert sorted(swatches) == sorted(colours[number] for number in present[present > 0])


def test_the_chart_shows_which_teeth_are_there(mouth, page):
    absent = [int(fdi) for fdi in re.findall(r'class="tooth absent[^>]*>(\d+)<', page)]
    present = [int(fdi) for fdi in re.findall(r'class="tooth(?! absent)[^>]*>(\d+)<', page)]
    assert sorted(absent + present) == sorted(FDI_TEETH)
    assert set(present) == {fdi for fdi in FDI_TEETH if (mouth.labels == TRAINING[fdi]).any()}


@pytest.mark.parametrize("task", [INTERACTIVE, STSR])
def test_other_challenges_have_pages_too(task):
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 10:20, 35:45], labels[10:20, 10:20, 10:20] = 1, 2
    found = Page(make_page(case_of(labels, challenge=CHALLENGES[task])))
    assert found.rows == [1, 2]
    assert CHALLENGES[task].structures[0].name in found.text
    assert "Missing" not in " ".join(found.text)


def test_one_voxel_is_enough():
    for shape in ((5, 6, 7), (1, 1, 1)):
        labels = np.zeros(shape, np.uint8)
        labels[0, 0, 0] = 11
        case = case_of(labels)
        assert Page(make_page(case)).rows == [11]
        make_preview(case)


def test_structures_that_only_one_of_two_has_are_listed():
    case = case_of(blocks(SHAPE, **UPPER), truth=blocks(SHAPE, fdi_11=UPPER["fdi_11"], **LOWER))
    page = Page(make_page(case))
    assert sorted(page.rows) == [11, 21, 31, 41]
    assert "lower left central incisor (only in the ground truth)" in page.text


def test_a_watcher_hears_of_every_picture_and_may_stop_them(mouth, page, tmp_path):
    told = []
    assert make_page(mouth, lambda *so_far: told.append(so_far)) == page
    pictures = len(Page(page).references)
    # Every picture is drawn, then packed; the greys, structures and truth of a slice are drawn together.
    assert told == [(done, told[0][1]) for done in range(told[0][1] + 1)]
    assert pictures < told[-1][1] < 2 * pictures

    def stop(done, total):
        if done == stop.at:
            raise Cancelled("enough")

    for stop.at in (0, 2, 7, pictures):
        with pytest.raises(Cancelled):
            write_report(tmp_path / "report.html", mouth, stop)
    assert list(tmp_path.iterdir()) == []


def test_the_template_holds_no_words():
    template = (Path(make_page.__code__.co_filename).parent / "page.html.j2").read_text()
    body = template[template.index("<!DOCTYPE") :]
    words = re.sub(r"{%.*?%}|{{.*?}}|<[^>]*>", " ", body, flags=re.DOTALL).split()
    assert [word for word in words if re.search(r"\w", word)] == ["umamba2"]  # all others are in texts.py


def test_the_package_holds_template_and_style():
    build_py = pytest.importorskip("setuptools.dist").Distribution({"packages": ["umamba2.reports"]})
    build_py.parse_config_files([str(Path(cli.__file__).parents[1] / "pyproject.toml")])
    command = build_py.get_command_obj("build_py")
    command.finalize_options()
    command.manifest_files = {}
    found = command.find_data_files("umamba2.reports", str(Path(make_page.__code__.co_filename).parent))
    assert {Path(name).name for name in found} == {"page.html.j2", "style.css"}


def test_names_are_escaped():
    page = make_page(case_of(blocks(SHAPE, **UPPER), name="<b>&.mha"))
    assert "&lt;b&gt;&amp;.mha" in page
    assert "<b>&.mha" not in page


# Nothing that the browser does of its own accord may be mistaken for a request of the page.
BROWSER_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
# A page that holds the report in a frame of each width and writes down what became of it.
PROBE = """<!DOCTYPE html><body style="margin:0"><p id="seen"></p><script>
const seen = [];
for (const width of [1280, 400]) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const inside = frame.contentDocument, images = [...inside.images];
    seen.push({
      width, visible: inside.documentElement.clientWidth, needed: inside.documentElement.scrollWidth,
      images: images.length, loaded: images.filter(image => image.complete && image.naturalWidth > 0).length,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    });
    document.getElementById("seen").textContent = JSON.stringify(seen);
  };
  frame.src = "report.html";
  document.body.append(frame);
}
</script></body>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("found no chromium, expected one to look at pages with (apt-get install chromium)")

    def run(profile, *options):
        command = [found, *BROWSER_OPTIONS, f"--user-data-dir={profile}", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture(scope="module")
def served(page, tmp_path_factory):
    """A server on this machine with the report and the probe; yields its address and the paths asked for."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(page)
    (folder / "probe.html").write_text(PROBE)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format, *arguments):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_page_fits_wide_and_narrow_windows_and_asks_for_nothing(browser, served, tmp_path):
    address, asked = served
    options = ("--window-size=1400,2000", "--virtual-time-budget=20000", "--dump-dom", f"{address}/probe.html")
    found = re.search(r'id="seen">(.*?)</p>', browser(tmp_path / "profile", *options))
    assert found
    seen = json.loads(found.group(1))
    assert sorted(frame["width"] for frame in seen) == [400, 1280]
    for frame in seen:
        assert frame["needed"] <= frame["visible"] == frame["width"]
        assert frame["images"] == frame["loaded"] > 9
        assert [url for url in frame["requests"] if not url.startswith("data:")] == []
    assert set(asked) <= {"/probe.html", "/report.html", "/favicon.ico"}  # the browser looks for an icon by itself


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 3600), (500, 7000)])
def test_screenshots_are_left_to_look_at(browser, served, tmp_path, width, height):
    folder = Path(cli.__file__).parents[1] / "test/output/reports"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"report_{width}.png"
    picture.unlink(missing_ok=True)
    browser(tmp_path / "profile", f"--window-size={width},{height}", f"--screenshot={picture}",
            f"{served[0]}/report.html")  # fmt: skip
    image = Image.open(picture)
    assert image.size == (width, height)
    assert np.asarray(image.convert("L")).std() > 20
