"""What counts as missing, against where the teeth of phantoms are."""

from __future__ import annotations

import numpy as np
import pytest
from report_cases import TRAINING, case_of, texts

from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH
from umamba2.reports.checks import NOTE, WARNING, missing_teeth
from umamba2.reports.field import teeth_in_field
from umamba2.reports.measures import measure
from umamba2.scans.geometry import Geometry
from umamba2.synthetic import make_phantom


class Mouth:
    """A phantom of 1 mm voxels, and where its teeth are: FDI number -> (n, 3) voxels."""

    def __init__(self, seed):
        phantom = make_phantom(seed, (64, 85, 100), (1.0, 1.0, 1.0))
        self.image, self.labels = phantom.image, to_training(ANATOMY, "dataset")[phantom.labels]
        voxels = {fdi: np.argwhere(self.labels == TRAINING[fdi]) for fdi in FDI_TEETH}
        self.teeth = {fdi: found for fdi, found in voxels.items() if len(found)}

    def case(self, cut=(), without=()):
        removed = np.isin(self.labels, [TRAINING[fdi] for fdi in FDI_TEETH if fdi in without])
        return case_of(np.where(removed, np.uint8(0), self.labels)[cut], image=self.image[cut])

    def cuts(self):
        """Parts of the mouth as other fields of view show them."""
        place = {fdi: voxels.mean(axis=0) for fdi, voxels in self.teeth.items()}
        middle = round(np.mean([place[fdi][2] for fdi in place if fdi % 10 == 1]))
        bite = round(np.mean([place[fdi][0] for fdi in place if fdi % 10 == 6]))
        front = round(np.mean([place[fdi][1] for fdi in place if fdi % 10 == 4]))
        whole = slice(None)
        cubes = {
            f"40 mm around {fdi}": tuple(slice(max(0, round(at) - 20), round(at) + 20) for at in place[fdi])
            for fdi in (11, 16, 33, 36, 46)
        }
        return {
            "left half": (whole, whole, slice(middle, None)),
            "right half": (whole, whole, slice(0, middle)),
            "a little more than the left half": (whole, whole, slice(middle - 8, None)),
            "upper jaw": (slice(bite - 2, None), whole, whole),
            "lower jaw": (slice(0, bite + 2), whole, whole),
            "front": (whole, slice(0, front), whole),
            "back": (whole, slice(front, None), whole),
            **cubes,
        }


@pytest.fixture(scope="module", params=[7, 31])
def mouth(request):
    return Mouth(request.param)


def missing(case):
    return set(missing_teeth(case, measure(case)))


def test_no_tooth_is_missed_that_the_field_does_not_show(mouth):
    absent = set(FDI_TEETH) - set(mouth.teeth)  # these the whole mouth lacks
    assert missing(mouth.case()) == absent
    for name, cut in mouth.cuts().items():
        assert missing(mouth.case(cut)) <= absent, name


def test_a_tooth_that_was_removed_is_missed_where_the_field_shows_it(mouth):
    for turn, (name, cut) in enumerate({"whole": (), **mouth.cuts()}.items()):
        inside = [slice(*side.indices(length)) for side, length in zip(cut or [slice(None)] * 3, mouth.labels.shape)]
        low, high = (np.array([getattr(side, end) for side in inside]) for end in ("start", "stop"))
        for fdi, voxels in list(mouth.teeth.items())[turn % 4 :: 4]:
            found = missing(mouth.case(cut, without=[fdi]))
            if (voxels >= low + 2).all() and (voxels < high - 2).all():
                assert fdi in found, (name, fdi)
            elif not ((voxels >= low).all(axis=1) & (voxels < high).all(axis=1)).any():
                assert fdi not in found, (name, fdi)


@pytest.mark.parametrize(
    ("removed", "says"),
    [
        ((11, 12), ["Missing upper teeth: 11, 12."]),
        ((36, 46, 47), ["Missing lower teeth: 36, 46, 47."]),
        (range(21, 28), ["Missing upper teeth: 21, 22, 23, 24, 25, 26, 27."]),
        (range(30, 50), ["No lower tooth was found."]),
        (range(50), ["No tooth was found."]),
    ],
)
def test_teeth_that_a_whole_mouth_lacks(removed, says):
    assert texts(Mouth(7).case(without=removed)) == says


def test_wisdom_teeth_are_no_reason_to_worry():
    case = Mouth(7).case(without=(18,))
    assert texts(case, WARNING) == []
    assert {"No upper wisdom tooth 18.", "No lower wisdom tooth 38, 48."} <= set(texts(case, NOTE))


def test_a_small_scan_without_teeth_is_worth_a_note():
    case = case_of(np.ones((40, 40, 40), np.uint8))
    assert "No tooth was found." in texts(case, NOTE)


def test_orders_of_axes_make_no_difference():
    mouth = Mouth(7)
    whole = mouth.case(mouth.cuts()["left half"], without=(25,))
    turned = case_of(
        np.ascontiguousarray(whole.labels.transpose(2, 0, 1)[::-1]),
        image=whole.image.transpose(2, 0, 1)[::-1],
        geometry=Geometry(
            (whole.labels.shape[1], whole.labels.shape[0], whole.labels.shape[2]), (1.0, 1.0, 1.0),
            (99.0, 3.0, 5.0), (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        ),
    )  # fmt: skip
    assert teeth_in_field(turned, measure(turned)) == teeth_in_field(whole, measure(whole))
    assert missing(turned) == missing(whole) == {25, 38}


def test_padding_is_not_shown():
    mouth = Mouth(7)
    case = mouth.case(mouth.cuts()["left half"])
    wide = ((0, 0), (0, 0), (50, 0))
    padded = case_of(np.pad(case.labels, wide), image=np.pad(case.image, wide, constant_values=-1000))
    assert missing(padded) == missing(case) == {38}


def test_without_an_orientation_only_gaps_between_teeth_are_missed():
    mouth = Mouth(7)
    case = case_of(mouth.case(without=(12, 17, 28, 44)).labels, image=mouth.image, oriented=False)
    assert missing(case) == {12, 17, 44}


def test_a_stray_piece_is_no_guide():
    mouth = Mouth(7)
    case = mouth.case(mouth.cuts()["left half"])
    stray = case.labels.copy()
    for tooth in (slice(1), slice(None)):  # a voxel of it, and all of it
        stray[tuple(np.argwhere(case.labels == TRAINING[26])[tooth].T)] = TRAINING[18]
        assert missing(case_of(stray, image=case.image)) - {26} == missing(case)
