"""Cases for the tests of reports: mouths of a few boxes."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from umamba2.anatomy.structures import ANATOMY
from umamba2.reports.checks import WARNING, check
from umamba2.reports.measures import measure
from umamba2.reports.reading import ReportCase
from umamba2.scans.geometry import Geometry

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


def case_of(labels, **changes):
    image = np.random.default_rng(1).normal(0, 300, labels.shape).astype(np.float32)
    case = ReportCase("case.mha", image, labels, grid(labels.shape))
    return replace(case, **changes)


def texts(case, level=WARNING):
    return [remark.text for remark in check(case, measure(case)) if remark.level == level]


# Boxes of 8 mm (512 mm^3), a plausible size for any tooth, in a 40 x 40 x 60 mm scan, the midline at x = 30.
UPPER = {"fdi_11": (22, 10, 20, 8), "fdi_21": (22, 10, 32, 8)}
LOWER = {"fdi_41": (8, 10, 20, 8), "fdi_31": (8, 10, 32, 8)}
SHAPE = (40, 40, 60)


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
