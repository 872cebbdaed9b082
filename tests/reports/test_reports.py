from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR, TASKS
from PIL import Image
from stand_in import DIRECTION, OBLIQUE, scan, write_image
from test_cli import predict  # noqa: F401  a fixture

from umamba2 import cli
from umamba2.anatomy.groups import by_group, select, slug
from umamba2.anatomy.numberings import as_training, from_training, to_training
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError
from umamba2.evaluation.metrics import dice, hd95
from umamba2.reports.checks import NOTE, WARNING, check
from umamba2.reports.overview import render_views
from umamba2.reports.page import make_page
from umamba2.reports.preview import make_preview
from umamba2.reports.reading import Reading, read_case
from umamba2.reports.slices import cut_slices
from umamba2.reports.statistics import measure
from umamba2.scans.orientation import orientation, to_patient
from umamba2.scans.volumes import Geometry
from umamba2.synthetic.phantoms import make_phantom

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
TRAINING = {int(s.platform): s.training for s in ANATOMY}


def grid(shape, spacing=(1.0, 1.0, 1.0), direction=IDENTITY):
    return Geometry(tuple(shape[::-1]), tuple(spacing), (-5.0, 7.0, 11.0), direction)


def blocks(shape, **boxes):
    """Labels with one box per structure: fdi_11=(z, y, x, size) or id_3=..., in millimetres of 1 mm voxels."""
    labels = np.zeros(shape, np.uint8)
    for name, (z, y, x, size) in boxes.items():
        labels[z : z + size, y : y + size, x : x + size] = TRAINING[int(name.split("_")[1])]
    return labels


def reading(labels, **changes):
    image = np.random.default_rng(1).normal(0, 300, labels.shape).astype(np.float32)
    case = Reading("case.mha", image, labels, grid(labels.shape))
    return replace(case, **changes)


def texts(case, level=WARNING):
    return [remark.text for remark in check(case, measure(case)) if remark.level == level]


@pytest.fixture(scope="module")
def phantom():
    """A small mouth: image, dataset ids, spacing."""
    return make_phantom(3, (64, 100, 120), (0.8, 0.8, 0.8))


@pytest.fixture(scope="module")
def mouth(phantom):
    found = to_training(ANATOMY, "dataset")[phantom.labels]
    truth = np.roll(found, 1, axis=2)
    geometry = grid(found.shape, phantom.spacing[::-1])
    return Reading("phantom.mha", phantom.image.astype(np.float32), found, geometry, truth=truth)


@pytest.fixture(scope="module")
def page(mouth):
    return make_page(mouth)


class Page(HTMLParser):
    """What a page refers to, says and lists."""

    def __init__(self, text):
        super().__init__()
        self.references, self.rows, self.text, self.styles, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            if key == "style":
                self.styles.append(value)
            if key == "data-id":
                self.rows.append(int(value))

    def handle_data(self, data):
        self.text.append(data)


# --- ids and names


def test_ids_of_every_numbering_are_understood():
    for task in TASKS:
        every = np.arange(CHALLENGES[task].num_classes)
        for numbering in ("platform", "public", "training"):
            ids = from_training(CHALLENGES[task].structures, numbering)[every]
            assert as_training(ids, "a.mha", CHALLENGES[task].structures, numbering).tolist() == every.tolist()
    dataset = np.array([0, 3, 48, 103, 105, 111, 148, 60])
    assert as_training(dataset, "a.mha", ANATOMY, "platform").tolist() == [0, 3, 42, 43, 45, 46, 46, 34]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 0], "a.mha: found no structure (every voxel is 0), expected at least one"),
        ([0, 99, 11], "a.mha: found unknown ids 99, expected ids of the platform numbering"),
        (
            [-1, 300, 11],
            "a.mha: found unknown ids -1, 300, expected ids of the platform numbering",
        ),
    ],
)
def test_ids_that_make_no_sense(ids, says):
    with pytest.raises(InputError) as error:
        as_training(np.array(ids), "a.mha", ANATOMY, "platform")
    assert str(error.value) == says


def test_every_structure_is_in_one_group():
    for task in TASKS:
        members = [s.training for group in by_group(CHALLENGES[task].structures).values() for s in group]
        assert sorted(members) == [s.training for s in CHALLENGES[task].structures]
        assert len({slug(s) for s in CHALLENGES[task].structures}) == len(members)


def test_structures_are_chosen_by_group_and_number():
    chosen = select(ANATOMY, ["jaws", "36", "36"])
    assert [slug(s) for s in chosen] == ["lower_jawbone", "upper_jawbone", "36_lower_left_first_molar"]
    assert len(select(CHALLENGES[STSR].structures, None)) == 12
    for task, name in ((MULTICLASS, "49"), (STSR, "36"), (INTERACTIVE, "teeth"), (MULTICLASS, "")):
        with pytest.raises(InputError, match=f"structures: found '{name}', expected"):
            select(CHALLENGES[task].structures, [name])


# --- orientation


@pytest.mark.parametrize("seed", range(6))
def test_upright_arrays_grow_to_the_top_the_back_and_the_left(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    turn = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    geometry = Geometry((4, 5, 6), (0.3, 0.4, 0.5), (1.0, 2.0, 3.0), tuple((turn @ matrix).ravel()))
    points = to_patient(geometry, np.stack(np.meshgrid(*map(np.arange, (6, 5, 4)), indexing="ij"), -1).reshape(-1, 3))
    frame = orientation(geometry)
    for axis, coordinate in enumerate((2, 1, 0)):
        upright = frame.upright(points[:, coordinate].reshape(6, 5, 4))
        steps = np.diff(upright, axis=axis)
        assert (steps > 0).all()
        np.testing.assert_allclose(steps.mean() / np.cos(np.radians(frame.tilt)), frame.spacing[axis], rtol=0.2)
        name, index = frame.stored(axis, 1, upright.shape[axis])
        stored_axis = "zyx".index(name)
        assert stored_axis == frame.axes[axis]
        marker = np.zeros((6, 5, 4))
        marker.swapaxes(0, stored_axis)[index] = 1
        assert (frame.upright(marker).swapaxes(0, axis)[1] == 1).all()
    assert 0 < frame.tilt < 30


def test_patient_coordinates_are_simpleitks():
    import SimpleITK as sitk

    image = sitk.Image(OBLIQUE.size, sitk.sitkUInt8)
    image.SetSpacing(OBLIQUE.spacing)
    image.SetOrigin(OBLIQUE.origin)
    image.SetDirection(OBLIQUE.direction)
    indices = np.array([(0, 0, 0), (1, 2, 3), (6, 10, 12)])
    expected = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in indices]
    np.testing.assert_allclose(to_patient(OBLIQUE, indices), expected)


# --- numbers


def test_volumes_are_naive_counts(mouth, phantom):
    measures = measure(mouth)
    voxel = 0.8**3
    counts = {s.training: np.isin(phantom.labels, s.dataset).sum() for s in ANATOMY}
    for m in measures:
        assert m.voxels == counts[m.structure.training]
        assert m.volume == pytest.approx(m.voxels * voxel)
    assert {m.structure.training for m in measures if m.voxels} == {n for n, count in counts.items() if count}


def test_agreement_is_that_of_the_evaluation(mouth):
    for m in measure(mouth)[::5]:
        masks = mouth.truth == m.structure.training, mouth.labels == m.structure.training
        assert m.dice == dice(*masks)
        assert m.hd95 == (hd95(*masks) if masks[0].any() and masks[1].any() else None)


def test_centres_are_in_patient_coordinates():
    labels = np.zeros(OBLIQUE.size[::-1], np.uint8)
    labels[2:5, 4:7, 3:6] = 7
    case = Reading("a.mha", labels.astype(np.float32), labels, OBLIQUE)
    (m,) = measure(case)
    np.testing.assert_allclose(m.centre, to_patient(OBLIQUE, np.array([[3, 5, 4]]))[0])
    assert not m.at_border
    assert m.dice is m.hd95 is None


# --- checks

# Boxes of 8 mm (512 mm^3), a plausible size for any tooth, in a 40 x 40 x 60 mm scan, the midline at x = 30.
UPPER = {"fdi_11": (22, 10, 20, 8), "fdi_21": (22, 10, 32, 8)}
LOWER = {"fdi_41": (8, 10, 20, 8), "fdi_31": (8, 10, 32, 8)}
SHAPE = (40, 40, 60)


def mixed(case):
    return [text for text in texts(case) if "mixed up" in text]


def test_a_sound_mouth_is_not_remarked_on():
    labels = np.zeros((60, 60, 200), np.uint8)
    for fdi in FDI_TEETH:
        side = 1 if fdi // 10 in (2, 3) else -1
        z, x = (35 if fdi < 30 else 15), 100 + side * (8 + 10 * (fdi % 10))
        labels[z : z + 8, 20:28, x : x + 8] = TRAINING[fdi]
    case = reading(labels)
    assert check(case, measure(case)) == []
    assert "No warnings" in make_page(case)


def test_missing_teeth():
    case = reading(blocks(SHAPE, **UPPER))
    assert "No lower tooth was found." in texts(case)
    (missing,) = [text for text in texts(case) if text.startswith("Missing upper")]
    assert missing == "Missing upper teeth: 12, 13, 14, 15, 16, 17, 22, 23, 24, 25, 26, 27."
    assert "No upper wisdom tooth 18, 28." in texts(case, NOTE)


def test_left_and_right():
    assert mixed(reading(blocks(SHAPE, **UPPER, **LOWER))) == []
    swapped = blocks(SHAPE, fdi_21=UPPER["fdi_11"], fdi_11=UPPER["fdi_21"], **LOWER)
    assert mixed(reading(swapped)) == [
        "Left and right are mixed up: 21 (upper left central incisor) lies to the right of 11 (upper right central "
        "incisor)."
    ]
    mirrored = blocks(SHAPE, **UPPER, **LOWER)[..., ::-1]
    assert [text.split(":")[0] for text in mixed(reading(mirrored))] == ["Left and right are mixed up throughout"]
    header = grid(SHAPE, direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    assert mixed(reading(mirrored, geometry=header)) == []
    alone = blocks(SHAPE, **UPPER, **LOWER, fdi_36=(8, 25, 10, 8))
    assert mixed(reading(alone)) == [
        "Left and right are mixed up: 36 (lower left first molar) belongs to the left but lies on the right."
    ]
    assert mixed(reading(blocks(SHAPE, **UPPER, **LOWER, fdi_46=(8, 25, 10, 8)))) == []


def test_upper_and_lower():
    swapped = blocks(SHAPE, fdi_11=LOWER["fdi_41"], fdi_41=UPPER["fdi_11"], fdi_21=UPPER["fdi_21"],
                     fdi_31=LOWER["fdi_31"])  # fmt: skip
    assert mixed(reading(swapped)) == [
        "Upper and lower are mixed up: 11 (upper right central incisor) lies below 41 (lower right central incisor)."
    ]
    upside_down = blocks(SHAPE, **UPPER, **LOWER)[::-1]
    assert [text.split(":")[0] for text in mixed(reading(upside_down))] == ["Upper and lower are mixed up throughout"]


def test_without_an_orientation_nothing_is_said_about_sides():
    case = reading(blocks(SHAPE, **UPPER, **LOWER)[::-1, :, ::-1], oriented=False)
    assert mixed(case) == []
    assert "The image does not state its orientation: sides and heights were not checked." in texts(case, NOTE)
    assert '<span class="mark' not in make_page(case)


def test_implausible_volumes():
    labels = blocks(SHAPE, fdi_11=(20, 10, 20, 13), fdi_21=(20, 10, 34, 2), id_3=(5, 10, 40, 3), id_10=(2, 2, 2, 1))
    found = [text for text in texts(reading(labels)) if "expected at" in text]
    assert found == [
        "Left inferior alveolar canal is small: 27 mm³, expected at least 59 mm³.",
        "11 (upper right central incisor) is large: 2,197 mm³, expected at most 1,300 mm³.",
        "21 (upper left central incisor) is small: 8 mm³, expected at least 41 mm³.",
    ]
    at_the_edge = reading(blocks(SHAPE, fdi_21=(20, 0, 34, 2)))
    assert not [text for text in texts(at_the_edge) if "small" in text]
    assert "At the edge of the scan, so volumes may be incomplete: 21." in texts(at_the_edge, NOTE)


def test_phantoms_are_in_order(mouth):
    assert mixed(mouth) == []


def test_structures_that_only_one_of_two_has():
    case = reading(blocks(SHAPE, **UPPER), truth=blocks(SHAPE, fdi_11=UPPER["fdi_11"], **LOWER))
    assert "Only in the ground truth: 31, 41." in texts(case)
    assert "Only in the segmentation: 21." in texts(case)
    rows = Page(make_page(case)).rows
    assert sorted(rows) == [11, 21, 31, 41]


# --- pictures


def test_slices_have_the_aspect_of_the_patient_and_the_colours_of_the_table():
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[8:12, 10:20, 15:25] = 7
    geometry = grid(labels.shape, spacing=(0.5, 1.0, 2.0))
    case = Reading("a.mha", labels.astype(np.float32), labels, geometry, truth=labels)
    # 15 mm around the structure: to the edges along z and x, not along y
    extents = {"axial": (0.5 * 40, 30), "coronal": (0.5 * 40, 2.0 * 20), "sagittal": (30, 2.0 * 20)}
    for cut in cut_slices(case):
        width, height = extents[cut.plane.name]
        assert cut.base.width / cut.base.height == pytest.approx(width / height, abs=0.01)
        assert cut.overlay.size == cut.truth.size == cut.base.size
        colours = {pixel[:3] for _, pixel in cut.overlay.getcolors(1 << 20) if pixel[3]}
        assert colours == {ANATOMY[6].colour}


def test_the_patients_left_is_on_the_right_of_axial_and_coronal_slices():
    labels = blocks(SHAPE, **UPPER, **LOWER)
    colour = ANATOMY[TRAINING[21] - 1].colour
    for direction, turn in ((IDENTITY, 1), ((-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), -1)):
        case = reading(np.ascontiguousarray(labels[..., ::turn]), geometry=grid(SHAPE, direction=direction))
        seen = [cut for cut in cut_slices(case) if cut.plane.name in ("axial", "coronal")]
        found = 0
        for cut in seen:
            pixels = np.asarray(cut.overlay)
            columns = np.nonzero((pixels[..., :3] == colour).all(-1) & (pixels[..., 3] > 0))[1]
            found += columns.size
            assert (columns > cut.overlay.width / 2 - 5).all()
        assert found
        views = {view.name: np.asarray(picture) for view, picture in render_views(case)}
        front = views["from the front"].astype(int)
        upper_left = front[: front.shape[0] // 3, -12]  # a column through 21
        shown = upper_left[upper_left[:, 3] > 200][:, :3]
        assert len(shown) > 5
        assert np.abs(shown / shown.max(1, keepdims=True) - np.array(colour) / max(colour)).mean() < 0.2


def test_views_show_what_there_is():
    names = [view.name for view, _ in render_views(reading(blocks(SHAPE, **UPPER)))]
    assert names == ["from the right", "from the front", "from the left", "upper arch, from below"]
    labels = blocks(SHAPE, id_1=(5, 5, 5, 20))
    (picture,) = [picture for view, picture in render_views(reading(labels)) if view.name == "from the front"]
    assert picture.mode == "RGBA"
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0, 0] == 0
    assert 0 < alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] < 255  # bone is a veil


def test_the_preview_is_one_picture(mouth):
    picture = make_preview(mouth)
    assert picture.mode == "RGB"
    assert picture.width == 1500
    assert np.asarray(picture).std() > 20


def test_one_voxel_is_enough():
    for shape in ((5, 6, 7), (1, 1, 1)):
        labels = np.zeros(shape, np.uint8)
        labels[0, 0, 0] = 11
        case = reading(labels)
        assert Page(make_page(case)).rows == [11]
        make_preview(case)


# --- the page


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
    found = Page(make_page(reading(labels, challenge=CHALLENGES[task])))
    assert found.rows == [1, 2]
    assert CHALLENGES[task].structures[0].name in found.text
    assert "Missing" not in " ".join(found.text)


def test_names_are_escaped():
    page = make_page(reading(blocks(SHAPE, **UPPER), name="<b>&.mha"))
    assert "&lt;b&gt;&amp;.mha" in page
    assert "<b>&.mha" not in page


# --- the command line


def test_report_from_files(tmp_path, capsys, phantom):
    geometry = grid(phantom.labels.shape, phantom.spacing[::-1], DIRECTION)
    image = write_image(tmp_path / "a.mha", phantom.image, geometry)
    truth = write_image(tmp_path / "truth.mha", phantom.labels, geometry)
    public = from_training(ANATOMY, "public")[to_training(ANATOMY, "dataset")[phantom.labels]]
    labels = write_image(tmp_path / "a.nii.gz", public, geometry)
    out = tmp_path / "new/report.html"
    files = ["-i", str(image), "-s", str(labels), "-o", str(out)]
    assert cli.main(["report", *files, "-g", str(truth), "--label-map", "public"]) == 0
    assert capsys.readouterr().out.startswith(str(out))
    page = out.read_text()
    assert "marks name the nearest" in page
    assert page.count("<td>1.000</td><td>0.00</td>") == len(Page(page).rows)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spacing": (1.0, 1.0, 1.1)}, "found spacing (1, 1, 1.1), expected (1, 1, 1) as"),
        ({"size": (60, 40, 39)}, "found size (60, 40, 39), expected (60, 40, 40) as"),
        ({"origin": (0.0, 7.0, 11.0)}, "found origin (0, 7, 11), expected (-5, 7, 11) as"),
        ({"direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}, "found direction (-1, 0, 0, 0, 1, 0, 0, 0, 1), expected"),
    ],
)
def test_grids_that_differ(tmp_path, change, says, capsys):
    image = write_image(tmp_path / "a.mha", np.zeros(SHAPE, np.int16), grid(SHAPE))
    other = replace(grid(SHAPE), **change)
    labels = write_image(tmp_path / "b.mha", np.ones(other.size[::-1], np.uint8), other)
    assert cli.main(["report", "-i", str(image), "-s", str(labels), "-o", str(tmp_path / "r.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {labels}: {says}")
    assert not (tmp_path / "r.html").exists()


def test_bad_numberings_and_places_cost_one_line(tmp_path, capsys):
    image = write_image(tmp_path / "a.mha", np.zeros(SHAPE, np.int16), grid(SHAPE))
    for value, place, says in ((0, "r.html", "found no structure"), (200, "r.html", "found unknown ids 200"),
                               (1, "a.mha/r.html", "could not be written")):  # fmt: skip
        labels = write_image(tmp_path / "b.mha", np.full(SHAPE, value, np.uint8), grid(SHAPE))
        assert cli.main(["report", "-i", str(image), "-s", str(labels), "-o", str(tmp_path / place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert says in line


def test_tiff_states_no_orientation(tmp_path):
    image = write_image(tmp_path / "a.tif", np.zeros(SHAPE, np.int16), None)
    labels = write_image(tmp_path / "b.tif", np.ones(SHAPE, np.uint8), None)
    assert not read_case(image, labels).oriented


def test_predict_leaves_its_results_beside_the_segmentation(predict, tmp_path):  # noqa: F811
    write_image(tmp_path / "in/a.mha", scan((1, 2), (16, 4)))
    write_image(tmp_path / "in/b.mha", scan())
    options = ["--challenge", MULTICLASS, "--no-postprocess", "--preview", "--statistics", "--report"]
    code, errors = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    assert code == 0  # nothing was found in b, which is no failure
    b = tmp_path / "out/b.mha"
    assert errors == [f"warning: {b}: found no structure (every voxel is 0), expected at least one"]
    names = ["a.mha", "a.preview.png", "a.report.html", "a.statistics.json", "b.mha", "run.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    statistics = json.loads((tmp_path / "out/a.statistics.json").read_text())
    voxel = np.prod(OBLIQUE.spacing)
    assert [(s["id"], s["fdi"], s["name"], s["voxels"]) for s in statistics["structures"]] == [
        (1, None, "lower jawbone", 21), (16, 16, "upper right first molar", 21),
    ]  # fmt: skip
    assert [s["volume_mm3"] for s in statistics["structures"]] == [round(21 * voxel, 4)] * 2
    assert statistics["remarks"]
    assert Image.open(tmp_path / "out/a.preview.png").size[0] == 1500
    assert Page((tmp_path / "out/a.report.html").read_text()).rows == [16, 1]


def test_what_lies_beside_is_of_one_scan_and_of_now(predict, tmp_path):  # noqa: F811
    image = write_image(tmp_path / "in/a.mha", scan((1, 2), (16, 4)))
    other = write_image(tmp_path / "in/a.nii.gz", scan((2, 2)))
    options = ["--challenge", MULTICLASS, "--no-postprocess", "--statistics"]
    code, (warning,) = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    statistics = tmp_path / "out/a.statistics.json"
    assert code == 0  # the segmentations are there
    assert warning == f"warning: {other}: found {statistics} taken by {image}, expected an output of its own"
    assert json.loads(statistics.read_text())["case"] == "a.mha"
    names = {"a.mha", "a.nii.gz", "a.statistics.json", "run.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    other.unlink()
    assert predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options) == (0, [])
    write_image(image, scan())
    code, (warning,) = predict(MULTICLASS, tmp_path / "in", tmp_path / "out", *options)
    assert "found no structure" in warning
    assert not statistics.exists()


def test_a_report_never_overwrites_what_it_is_about(tmp_path, capsys):
    files = [
        write_image(tmp_path / name, np.ones(SHAPE, np.uint8), grid(SHAPE)) for name in ("a.mha", "b.mha", "c.mha")
    ]
    before = [path.read_bytes() for path in files]
    options = [text for pair in zip(("-i", "-s", "-g"), map(str, files)) for text in pair]
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for path in [*files, tmp_path / "link/b.mha"]:
        assert cli.main(["report", *options, "-o", str(path)]) == 1
        line = f"error: {files[0]}: found an input as its output ({path}), expected another place\n"
        assert capsys.readouterr().err == line
    assert [path.read_bytes() for path in files] == before
    for place in (tmp_path, "."):
        assert cli.main(["report", *options, "-o", str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {place}: ")


def test_predict_without_a_challenge_has_no_names_for_a_report(predict, tmp_path):  # noqa: F811
    image = write_image(tmp_path / "a.mha", scan((1, 2)))
    code, (error,) = predict(MULTICLASS, image, tmp_path / "out", "--report")
    assert code == 1
    assert error.startswith("error: --preview, --statistics, --report: found no challenge")


def test_the_command_line_and_the_container_stay_light():
    def loaded(code):
        command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
        root = Path(cli.__file__).parents[1]
        return set(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split())

    assert not loaded("import umamba2.cli; umamba2.cli._parser([])") & {"PIL", "scipy", "torch", "SimpleITK", "trimesh"}
    container = loaded("import inference, umamba2.jobs.container, umamba2.challenges, umamba2.serving")
    assert not {name for name in container if name.startswith(("umamba2.reports", "umamba2.exports", "PIL"))}


# --- in a browser

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
