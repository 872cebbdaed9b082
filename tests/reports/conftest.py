from __future__ import annotations

import numpy as np
import pytest
from report_cases import grid

from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.reports.page import make_page
from umamba2.reports.reading import ReportCase
from umamba2.synthetic import make_phantom


@pytest.fixture(scope="session")
def phantom():
    """A small mouth: image, dataset ids, spacing."""
    return make_phantom(3, (64, 100, 120), (0.8, 0.8, 0.8))


@pytest.fixture(scope="session")
def mouth(phantom):
    found = to_training(ANATOMY, "dataset")[phantom.labels]
    truth = np.roll(found, 1, axis=2)
    geometry = grid(found.shape, phantom.spacing[::-1])
    return ReportCase("phantom.mha", phantom.image.astype(np.float32), found, geometry, truth=truth)


@pytest.fixture(scope="session")
def page(mouth):
    return make_page(mouth)
