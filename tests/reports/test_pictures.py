from __future__ import annotations

import numpy as np
import pytest
from report_cases import IDENTITY, LOWER, SHAPE, TRAINING, UPPER, blocks, case_of, grid

from umamba2.anatomy.structures import ANATOMY
from umamba2.reports.overview import render_views
from umamba2.reports.preview import make_preview
from umamba2.reports.reading import ReportCase
from umamba2.reports.slices import cut_slices


def test_slices_have_the_aspect_of_the_patient_and_the_colours_of_the_table():
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[8:12, 10:20, 15:25] = 7
    geometry = grid(labels.shape, spacing=(0.5, 1.0, 2.0))
    case = ReportCase("a.mha", labels.astype(np.float32), labels, geometry, truth=labels)
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
        case = case_of(np.ascontiguousarray(labels[..., ::turn]), geometry=grid(SHAPE, direction=direction))
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
    names = [view.name for view, _ in render_views(case_of(blocks(SHAPE, **UPPER)))]
    assert names == ["from the right", "from the front", "from the left", "upper arch, from below"]
    labels = blocks(SHAPE, id_1=(5, 5, 5, 20))
    (picture,) = [picture for view, picture in render_views(case_of(labels)) if view.name == "from the front"]
    assert picture.mode == "RGBA"
    alpha = np.asarray(picture)[..., 3]
    assert alpha[0, 0] == 0
    assert 0 < alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] < 255  # bone is a veil


def test_the_preview_is_one_picture(mouth):
    picture = make_preview(mouth)
    assert picture.mode == "RGB"
    assert picture.width == 1500
    assert np.asarray(picture).std() > 20
