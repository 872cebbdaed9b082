"""The codes against pydicom's copy of DICOM's code lists."""

from __future__ import annotations

import re

import pytest
from pydicom.sr.codedict import codes

from umamba2.anatomy.codes import CODINGS, PRIVATE_SCHEME, TOOTH_CODES, coding
from umamba2.anatomy.structures import ANATOMY, FDI_TEETH, TOOTH_PULPS, tooth_name
from umamba2.challenges import CHALLENGES


def of_list(number):
    """Value -> meaning of a context group."""
    group = getattr(codes, f"cid{number}")
    return {
        (code.value, code.scheme_designator): code.meaning for code in (getattr(group, name) for name in group.dir())
    }


CATEGORIES, THINGS, SIDES = of_list(7150), of_list(7151) | of_list(7601) | of_list(4018), of_list(244)


def all_codes():
    for coded in CODINGS.values():
        yield from (
            (code, lists)
            for code, lists in (
                (coded.category, CATEGORIES),
                (coded.kind, THINGS),
                (coded.modifier, SIDES),
                (coded.region, THINGS),
            )
            if code is not None
        )


def test_every_standard_code_is_in_the_standard():
    for code, lists in all_codes():
        if code.scheme != PRIVATE_SCHEME:
            assert lists[code.value, code.scheme] == code.meaning


def test_every_other_code_is_marked_as_the_projects():
    private = {code for code, _ in all_codes() if code.scheme != "SCT"}
    assert {code.scheme for code in private} == {PRIVATE_SCHEME}
    assert PRIVATE_SCHEME.startswith("99")
    assert len({code.value for code in private}) == len(private)
    assert all(re.fullmatch(r"[A-Z0-9_]{1,16}", code.value) for code in private)
    standard = {meaning.lower() for lists in (THINGS, SIDES) for meaning in lists.values()}
    assert not {code.meaning.lower() for code in private} & standard


@pytest.mark.parametrize("fdi", FDI_TEETH)
def test_each_tooth_has_its_own(fdi):
    assert (TOOTH_CODES[fdi].value, "SCT") in of_list(4018)
    jaw, side, *kind = tooth_name(fdi).split()
    meaning = TOOTH_CODES[fdi].meaning.lower()
    assert {"upper": "maxillary", "lower": "mandibular"}[jaw] in meaning
    assert side in meaning.split()
    # CID 4018 leaves "incisor" out once: "Mandibular left lateral tooth"
    assert " ".join(kind) in meaning or (fdi, meaning) == (32, "mandibular left lateral tooth")
    assert len({code.value for code in TOOTH_CODES.values()}) == 32


def test_no_two_structures_of_a_challenge_are_coded_alike():
    for structures in (*(challenge.structures for challenge in CHALLENGES.values()), (*ANATOMY, *TOOTH_PULPS)):
        coded = [coding(structure) for structure in structures]
        assert len({(one.kind, one.modifier, one.region) for one in coded}) == len(structures)
        assert all(len(one.kind.value) <= 16 and len(one.kind.meaning) <= 64 for one in coded)


def test_every_structure_of_the_table_is_coded():
    assert {s.name for s in (*ANATOMY, *TOOTH_PULPS)} <= set(CODINGS)
