from __future__ import annotations

import numpy as np
from report_cases import LOWER, SHAPE, TRAINING, UPPER, blocks, case_of, grid, texts

from umamba2.anatomy.structures import FDI_TEETH
from umamba2.reports.checks import NOTE, check
from umamba2.reports.measures import measure
from umamba2.reports.page import make_page


def mixed(case):
    return [text for text in texts(case) if "mixed up" in text]


def test_a_sound_mouth_is_not_remarked_on():
    labels = np.zeros((60, 60, 200), np.uint8)
    for fdi in FDI_TEETH:
        side = 1 if fdi // 10 in (2, 3) else -1
        z, x = (35 if fdi < 30 else 15), 100 + side * (8 + 10 * (fdi % 10))
        labels[z : z + 8, 20:28, x : x + 8] = TRAINING[fdi]
    case = case_of(labels)
    assert check(case, measure(case)) == []
    assert "No warnings" in make_page(case)


def test_sides_are_compared_where_the_scan_shows_two():
    # The left half of a mouth in which the network mistook three teeth for right ones, the midline at its border.
    boxes = {"fdi_41": (8, 10, 0, 5), "fdi_31": (8, 10, 6, 5), "fdi_11": (22, 10, 0, 6), "fdi_21": (22, 10, 7, 6)}
    mistaken = {"fdi_46": (8, 25, 30, 8)}
    assert mixed(case_of(blocks(SHAPE, **boxes, **mistaken))) == []
    both = np.pad(blocks(SHAPE, **boxes, **mistaken), ((0, 0), (0, 0), (30, 0)))
    (text,) = mixed(case_of(both))
    assert text.endswith("46 (lower right first molar) belongs to the right but lies on the left.")
    # Two molars side by side are no pair, however they are called.
    molars = blocks(SHAPE, fdi_36=(8, 20, 20, 8), fdi_46=(8, 30, 24, 8))
    assert mixed(case_of(molars)) == []


def test_left_and_right():
    assert mixed(case_of(blocks(SHAPE, **UPPER, **LOWER))) == []
    swapped = blocks(SHAPE, fdi_21=UPPER["fdi_11"], fdi_11=UPPER["fdi_21"], **LOWER)
    assert mixed(case_of(swapped)) == [
        "Left and right are mixed up: 21 (upper left central incisor) lies to the right of 11 (upper right central "
        "incisor)."
    ]
    mirrored = blocks(SHAPE, **UPPER, **LOWER)[..., ::-1]
    assert [text.split(":")[0] for text in mixed(case_of(mirrored))] == ["Left and right are mixed up throughout"]
    header = grid(SHAPE, direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    assert mixed(case_of(mirrored, geometry=header)) == []
    alone = blocks(SHAPE, **UPPER, **LOWER, fdi_36=(8, 25, 10, 8))
    assert mixed(case_of(alone)) == [
        "Left and right are mixed up: 36 (lower left first molar) belongs to the left but lies on the right."
    ]
    assert mixed(case_of(blocks(SHAPE, **UPPER, **LOWER, fdi_46=(8, 25, 10, 8)))) == []


def test_upper_and_lower():
    swapped = blocks(SHAPE, fdi_11=LOWER["fdi_41"], fdi_41=UPPER["fdi_11"], fdi_21=UPPER["fdi_21"],
                     fdi_31=LOWER["fdi_31"])  # fmt: skip
    assert mixed(case_of(swapped)) == [
        "Upper and lower are mixed up: 11 (upper right central incisor) lies below 41 (lower right central incisor)."
    ]
    upside_down = blocks(SHAPE, **UPPER, **LOWER)[::-1]
    assert [text.split(":")[0] for text in mixed(case_of(upside_down))] == ["Upper and lower are mixed up throughout"]


def test_without_an_orientation_nothing_is_said_about_sides():
    case = case_of(blocks(SHAPE, **UPPER, **LOWER)[::-1, :, ::-1], oriented=False)
    assert mixed(case) == []
    assert "The image does not state its orientation: sides and heights were not checked." in texts(case, NOTE)
    assert '<span class="mark' not in make_page(case)


def test_implausible_volumes():
    labels = blocks(SHAPE, fdi_11=(20, 10, 20, 13), fdi_21=(20, 10, 34, 2), id_3=(5, 10, 40, 3), id_10=(2, 2, 2, 1))
    found = [text for text in texts(case_of(labels)) if "expected at" in text]
    assert found == [
        "Left inferior alveolar canal is small: 27.0 mm³, expected at least 59.3 mm³.",
        "11 (upper right central incisor) is large: 2,197 mm³, expected at most 1,300 mm³.",
        "21 (upper left central incisor) is small: 8.0 mm³, expected at least 75.0 mm³.",
    ]
    at_the_edge = case_of(blocks(SHAPE, fdi_21=(20, 0, 34, 2)))
    assert not [text for text in texts(at_the_edge) if "small" in text]
    assert "At the edge of the scan, so volumes may be incomplete: 21." in texts(at_the_edge, NOTE)


def test_phantoms_are_in_order(mouth):
    assert mixed(mouth) == []


def test_structures_that_only_one_of_two_has():
    case = case_of(blocks(SHAPE, **UPPER), truth=blocks(SHAPE, fdi_11=UPPER["fdi_11"], **LOWER))
    assert "Only in the ground truth: 31, 41." in texts(case)
    assert "Only in the segmentation: 21." in texts(case)
