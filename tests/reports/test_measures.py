from __future__ import annotations

import numpy as np
import pytest
from stand_in import OBLIQUE

from umamba2.anatomy.structures import ANATOMY
from umamba2.evaluation.metrics import dice, hd95
from umamba2.reports.measures import measure
from umamba2.reports.reading import ReportCase
from umamba2.scans.orientation import to_patient


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
    case = ReportCase("a.mha", labels.astype(np.float32), labels, OBLIQUE)
    (m,) = measure(case)
    np.testing.assert_allclose(m.centre, to_patient(OBLIQUE, np.array([[3, 5, 4]]))[0])
    assert not m.at_border
    assert m.dice is m.hd95 is None
