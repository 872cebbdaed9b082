"""The page in a headless browser: a click is the voxel that is meant, what is found is drawn, nothing leaves."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from stand_in_page import INTERACTIVE, MULTICLASS, TOKEN, make_desk, serving, write_scan

from umamba2.exports import meshes

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the page is not looked at")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not looked at"),
]
# Software graphics: slow, and the same everywhere.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
BLOCKS = {"_3": np.s_[2:5, 3:6, 4:9], "_36": np.s_[8:12, 10:14, 10:14]}
PLANES = ("axial", "coronal", "sagittal")
CANALS = (201, 202)  # how the left and the right one are drawn


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "private").mkdir()
    with serving(tmp_path / "private", make_desk(tmp_path / "private")) as (desk, url):
        yield desk, url


class Browser:
    """One browser window with the page, and what a person does with it."""

    def __init__(self, context, url: str, query: str = "&render=0"):
        self.page = context.new_page()
        self.page.set_default_timeout(180_000)  # software graphics on a busy machine
        self.asked: list[str] = []
        self.troubles: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda line: self.troubles.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.goto(f"{url}?token={TOKEN}{query}")
        self.until("window.umamba2?.ready")

    def until(self, condition: str, seconds: float = 180) -> None:
        """Wait until a JavaScript expression is true (Playwright's own way needs `eval`, which the page forbids)."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition}: {self.said} {self.troubles}"
            self.page.wait_for_timeout(30)

    @property
    def said(self) -> str:
        return self.page.inner_text("#said")

    @property
    def clicks(self) -> list[dict]:
        return self.page.evaluate("umamba2.state.clicks")

    def open(self, *files: Path) -> None:
        before = self.page.evaluate("umamba2.state.scan")
        self.page.set_input_files("#scan-files", [str(path) for path in files])
        self.until(f"umamba2.state.scan !== {json.dumps(before)} && !umamba2.state.acting")
        self.until("said.textContent.endsWith('is open.')")

    def segment(self) -> None:
        self.page.click("#segment")
        self.until("umamba2.state.layers.whole && !umamba2.state.acting")

    def mode(self, side: str) -> None:
        self.page.click(f"#modes [data-mode={side}]")

    def tile(self, plane: int) -> tuple[float, float, float, float]:
        """Where a plane's picture is on the screen: left, top, width, height."""
        box = self.page.locator("#viewer").bounding_box()
        found = self.page.evaluate(
            "(plane) => { const v = umamba2.viewer; const s = v.canvas.getBoundingClientRect().width / v.canvas.width;"
            " return v.nv.screenSlices.find((t) => t.axCorSag === plane).leftTopWidthHeight.map((px) => px * s) }",
            plane,
        )
        return box["x"] + found[0], box["y"] + found[1], found[2], found[3]

    def click_in(self, plane: int, across: float, down: float) -> None:
        left, top, width, height = self.tile(plane)
        count = len(self.clicks)
        self.page.mouse.click(left + across * width, top + down * height)
        self.until(f"umamba2.state.clicks.length === {count + 1} && !umamba2.state.acting")

    def drawn(self) -> np.ndarray:
        """What is drawn over the scan, (z, y, x) on the viewer's grid."""
        values, shape = self.page.evaluate("[Array.from(umamba2.viewer.nv.drawBitmap), umamba2.state.facts.shape]")
        return np.array(values, np.uint8).reshape(shape[::-1])

    def value(self) -> float:
        """The grey value that the viewer itself has at the crosshair."""
        return float(self.page.inner_text("#place").split("value")[1].split()[0])


@pytest.fixture
def window(chromium, server):
    with opened(chromium, server[1]) as browser:
        yield browser
        assert browser.troubles == []


@contextmanager
def opened(chromium, url: str, size=(1000, 620), query: str = "&render=0"):
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]})
    try:
        yield Browser(context, url, query)
    finally:
        context.close()


def in_viewer(labels: np.ndarray, image: sitk.Image) -> np.ndarray:
    turned = sitk.GetImageFromArray(labels)
    turned.CopyInformation(image)
    return sitk.GetArrayFromImage(sitk.DICOMOrient(turned, "RAS"))


def only_session(desk):
    (study,) = desk.studies
    return study.session


@pytest.mark.parametrize("code", ["LPS", "RAS", "PSR", "AIL"])
def test_a_click_in_any_plane_is_the_voxel_that_is_shown(window, server, tmp_path, code):
    image = write_scan(tmp_path / "scan.nii.gz", code)
    array = sitk.GetArrayFromImage(image)
    window.open(tmp_path / "scan.nii.gz")
    window.mode("left")
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    for plane in range(3):
        for across, down in ((0.3, 0.6), (0.7, 0.35)):
            window.click_in(plane, across, down)
            z, y, x = only_session(server[0]).clicks[-1].voxel
            assert array[int(z), int(y), int(x)] == window.value()
            assert f"voxel {int(x)}, {int(y)}, {int(z)} " in window.page.inner_text("#place")
            # The sides that the letters promise: the patient's right (front, in the sagittal plane: back) on the left.
            there = np.array(image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))) - middle
            to_the_left, to_the_top = ((there[0], there[1]), (there[0], -there[2]), (-there[1], -there[2]))[plane]
            assert (to_the_left > 0) == (across > 0.5), (plane, there)
            assert (to_the_top > 0) == (down > 0.5), (plane, there)
    letters = window.page.locator(".letter").all_inner_texts()
    assert letters == list("RLAP" + "RLSI" + "PASI")
    expected = in_viewer(only_session(server[0]).labels, image)
    np.testing.assert_array_equal(window.drawn() == CANALS[0], expected == 1)


def test_canals_appear_where_they_were_clicked_and_go_again(window, server, tmp_path):
    image = write_scan(tmp_path / "scan.mha", "RSA", **BLOCKS)
    window.open(tmp_path / "scan.mha")
    window.segment()
    array = sitk.GetArrayFromImage(image)
    truth = in_viewer(np.where(array >= 2000, array - 2000, 0).astype(np.uint8), image)
    np.testing.assert_array_equal(window.drawn() == 3, truth == 3)
    assert window.page.inner_text("#chart button.tooth") == "36"
    assert "36 lower left first molar" in window.page.inner_text("#structures")
    window.mode("left")
    window.click_in(0, 0.25, 0.5)
    window.mode("right")
    window.click_in(1, 0.8, 0.4)
    labels = in_viewer(only_session(server[0]).labels, image)
    for side, number in enumerate(CANALS, start=1):
        np.testing.assert_array_equal(window.drawn() == number, labels == side)
        assert (labels == side).any()
    window.page.click("#undo")
    window.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
    assert not (window.drawn() == CANALS[1]).any()
    assert (window.drawn() == CANALS[0]).any()
    window.page.click("#clicks li")
    window.page.click("#remove")
    window.until("umamba2.state.clicks.length === 0 && !umamba2.state.acting")
    np.testing.assert_array_equal(window.drawn(), np.where(truth == 36, 32, truth))  # as drawn: the training ids


def test_everything_by_keyboard(window, server, tmp_path):
    write_scan(tmp_path / "scan.nrrd", **BLOCKS)
    window.open(tmp_path / "scan.nrrd")
    keys = window.page.keyboard
    start = window.page.evaluate("umamba2.viewer.position()")
    for key in ("x", "x", "x"):  # around once, back to axial
        keys.press(key)
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "PageUp"):
        keys.press(key)
    moved = np.subtract(window.page.evaluate("umamba2.viewer.position()"), start)
    np.testing.assert_allclose(moved, [-2 * 0.4, 0.5, 0.7], atol=1e-4)  # to the patient's left, front and top
    keys.press("g")
    window.until("umamba2.state.layers.whole && !umamba2.state.acting")
    keys.press("l")
    keys.press("Enter")
    window.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
    keys.press("r")
    keys.press("Shift+ArrowDown")
    keys.press("Enter")
    window.until("umamba2.state.clicks.length === 2 && !umamba2.state.acting")
    assert [click["side"] for click in window.clicks] == ["left", "right"]
    first = window.clicks[0]["voxel"]
    keys.press("n")  # from the second one on to the first
    keys.press("PageDown")
    keys.press("m")
    window.until(f"umamba2.state.clicks[0].voxel[0] === {first[0] - 1} && !umamba2.state.acting")
    keys.press("Delete")
    window.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
    keys.press("Control+z")
    window.until("umamba2.state.clicks.length === 2 && !umamba2.state.acting")
    for key, name in (("t", "teeth"), ("s", "soft"), ("a", "full"), ("b", "bone")):
        keys.press(key)
        low, high = window.page.evaluate("umamba2.viewer.window()")
        assert [low, high] == window.page.evaluate(f"umamba2.state.facts.windows.{name}")
        assert window.page.get_attribute(f"[data-window={name}]", "aria-pressed") == "true"
    keys.press("?")
    assert window.page.is_visible("#help")
    keys.press("Escape")
    assert not window.page.is_visible("#help")
    # Everything that can be pressed has a name, and Tab reaches it.
    nameless = window.page.evaluate(
        "[...document.querySelectorAll('button, select, input:not([hidden])')]"
        ".filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.title)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert window.page.evaluate("[...document.querySelectorAll('button')].every((e) => e.tabIndex === 0)")


def test_what_an_answer_warns_of_is_said(window, server, tmp_path):
    write_scan(tmp_path / "scan.nrrd")
    window.open(tmp_path / "scan.nrrd")
    session = server[0].models.find(INTERACTIVE).session
    server[0].models.find(INTERACTIVE).session = lambda scan, most_bytes: _deaf(session(scan))
    window.mode("left")  # and the keys are the viewer's again
    window.page.keyboard.press("Enter")
    window.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
    assert window.said == LEFT_OUT
    assert window.page.inner_text("#problems li") == window.said


LEFT_OUT = (
    "scan.nrrd: clicks: found click 1 (left, voxel (5, 6, 6)) 9 mm off the left canal, expected it on it; left out"
)


def _deaf(session):
    def look(clicks, record, watch):
        record.warn(LEFT_OUT)
        return np.zeros(session.labels.shape, np.uint8)

    session._look = look
    return session


def test_cancel(window, server, tmp_path):
    write_scan(tmp_path / "scan.nrrd", **BLOCKS)
    window.open(tmp_path / "scan.nrrd")
    slow = server[0].models.find(MULTICLASS).slow
    slow.set()
    window.page.click("#segment")
    window.page.wait_for_selector("#cancel", state="visible")
    window.until("/^[0-9]+ of 3$/.test(step.textContent)")
    window.page.click("#cancel")
    window.until("said.textContent === 'Cancelled.'")
    slow.clear()
    assert window.page.evaluate("Object.keys(umamba2.state.layers)") == []
    assert not window.page.is_visible("#work")
    window.segment()


def test_meshes_are_counted_and_can_be_cancelled(window, server, tmp_path, monkeypatch):
    write_scan(tmp_path / "scan.nrrd", **BLOCKS)
    window.open(tmp_path / "scan.nrrd")
    window.segment()
    real, made, go_on = meshes.make_surface, [], threading.Event()

    def slowly(*arguments):
        made.append(arguments)
        assert len(made) < 2 or go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(meshes, "make_surface", slowly)
    window.page.click("#save-whole-meshes")
    window.until("step.textContent === 'mesh 1 of 2' && !work.hidden")
    with window.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        window.page.click("#cancel")
    go_on.set()
    window.until("said.textContent === 'Cancelled: nothing was saved.'")
    with window.page.expect_download() as download:
        window.page.click("#save-whole-meshes")
    assert download.value.suggested_filename == "scan.labels.stl.zip"


def test_loading_the_page_anew_keeps_all_of_it(window, server, tmp_path):
    write_scan(tmp_path / "scan.nrrd", "PSR", **BLOCKS)
    window.open(tmp_path / "scan.nrrd")
    window.segment()
    window.mode("right")
    window.click_in(2, 0.4, 0.4)
    drawn, clicks = window.drawn(), window.clicks
    window.page.reload()
    window.until("window.umamba2?.ready && umamba2.state.facts && !umamba2.state.acting")
    np.testing.assert_array_equal(window.drawn(), drawn)
    assert window.clicks == clicks
    assert "36 lower left first molar" in window.page.inner_text("#structures")
    # What was being worked on goes on.
    slow = server[0].models.find(MULTICLASS).slow
    slow.set()
    window.page.click("#segment")
    window.until("!work.hidden")
    window.page.reload()
    window.until("!work.hidden")
    slow.clear()
    window.until("window.umamba2?.ready && !umamba2.state.acting")


def test_a_broken_file_costs_a_line_and_nothing_else(window, tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    whole = (tmp_path / "scan.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mha").write_text("nonsense")
    window.open(tmp_path / "scan.nii.gz")
    scan = window.page.evaluate("umamba2.state.scan")
    for name in ("cut.nii.gz", "text.mha"):
        window.page.set_input_files("#scan-files", str(tmp_path / name))
        window.until("said.classList.contains('wrong')")
        assert window.said.startswith(f"{name}: ")
        assert window.page.evaluate("umamba2.state.scan") == scan
        window.page.keyboard.press("b")
        window.page.evaluate("said.classList.remove('wrong')")
    window.segment()


def test_two_browsers_at_once(chromium, server, tmp_path):
    write_scan(tmp_path / "one.nrrd", **BLOCKS)
    write_scan(tmp_path / "other.nrrd", "RAS")
    with opened(chromium, server[1]) as one, opened(chromium, server[1]) as other:
        one.open(tmp_path / "one.nrrd")
        other.open(tmp_path / "other.nrrd")
        slow = server[0].models.find(MULTICLASS).slow
        slow.set()
        one.page.click("#segment")
        one.until("!work.hidden")
        other.mode("left")
        left, top, width, height = other.tile(0)
        other.page.mouse.click(left + width / 2, top + height / 2)
        other.until("step.textContent === 'waiting, 1 before it' && !work.hidden")
        slow.clear()
        one.until("umamba2.state.layers.whole && !umamba2.state.acting")
        other.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
        assert one.clicks == []
        assert other.page.evaluate("Object.keys(umamba2.state.layers)") == ["canals"]
        assert one.troubles == other.troubles == []


def test_nothing_is_asked_of_another_host(window, server, tmp_path):
    write_scan(tmp_path / "scan.nrrd", **BLOCKS)
    window.open(tmp_path / "scan.nrrd")
    window.segment()
    window.mode("left")
    window.click_in(0, 0.5, 0.5)
    outside = [url for url in window.asked if not url.startswith((server[1], "data:", "blob:"))]
    assert outside == []
    assert len(window.asked) > 10


def test_dropped_files_and_unknown_sides(window, tmp_path):
    write_scan(tmp_path / "scan.nrrd")
    content = list((tmp_path / "scan.nrrd").read_bytes())
    window.page.evaluate(
        "(content) => { const files = new DataTransfer();"
        " files.items.add(new File([new Uint8Array(content)], 'dropped.nrrd'));"
        " window.dispatchEvent(new DragEvent('drop', { dataTransfer: files, cancelable: true })) }",
        content,
    )
    window.until("said.textContent === 'dropped.nrrd is open.'")
    assert window.page.inner_text("#sides") == "Sides from the header (LPS)"
    image = sitk.ReadImage(str(tmp_path / "scan.nrrd"))
    sitk.WriteImage(
        sitk.Cast(sitk.GetImageFromArray(sitk.GetArrayFromImage(image)), sitk.sitkInt16), str(tmp_path / "a.tif")
    )
    window.open(tmp_path / "a.tif")
    assert window.page.inner_text("#sides") == "Sides unknown"
    assert window.page.locator(".letter").count() == 0
    assert " mm" not in window.page.inner_text("#place")


def test_saving_and_loading(window, server, tmp_path):
    image = write_scan(tmp_path / "scan.nii.gz", "RSA", **BLOCKS)
    window.open(tmp_path / "scan.nii.gz")
    window.segment()
    window.mode("left")
    window.click_in(1, 0.4, 0.4)
    saved = {}
    for kind, what in (("whole", "labels"), ("canals", "labels"), ("canals", "clicks"), ("whole", "meshes")):
        with window.page.expect_download() as download:
            window.page.click(f"#save-{kind}-{what}")
        saved[kind, what] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind, what])
    array = sitk.GetArrayFromImage(image)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(saved["whole", "labels"])))
    np.testing.assert_array_equal(labels, np.where(array >= 2000, array - 2000, 0))
    final = sitk.GetArrayFromImage(sitk.ReadImage(str(saved["canals", "labels"])))
    np.testing.assert_array_equal(window.drawn() == CANALS[0], in_viewer(final, image) == 1)
    window.open(tmp_path / "scan.nii.gz")
    window.page.set_input_files("#clicks-file", str(saved["canals", "clicks"]))
    window.until("umamba2.state.clicks.length === 1 && !umamba2.state.acting")
    assert window.clicks[0]["side"] == "left"
    window.page.set_input_files("#labels-file", str(saved["whole", "labels"]))
    window.until("umamba2.state.layers.whole && !umamba2.state.acting")
    assert window.page.inner_text("#chart button.tooth") == "36"
    assert INTERACTIVE not in window.said


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_it_fits_the_screen(chromium, server, tmp_path, size):
    write_scan(tmp_path / "scan.nrrd", **BLOCKS)
    with opened(chromium, server[1], size, "") as window:  # with 3-D
        window.open(tmp_path / "scan.nrrd")
        window.segment()
        for layout in ("axial", "coronal", "sagittal", "render", "all"):
            window.page.click(f"[data-layout={layout}]")
        for name in ("#open", "#segment", "#modes", "#undo", "#chart", "#viewer", "#said", "#place", "#windows"):
            box = window.page.locator(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= size[0], name
            assert box["y"] + box["height"] <= size[1], name
        assert window.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert window.page.evaluate("panel.scrollWidth <= panel.clientWidth")
        window.page.screenshot(path=str(tmp_path / f"page_{size[0]}.png"))
        assert window.troubles == []
