"""What in a segmentation deserves a second look: missing teeth, odd volumes, structures on the wrong side.

The checks know anatomy, not the patient: a remark is a reason to look, never a finding. They judge what the scan shows:
no tooth is missing whose place it does not reach, and sides are compared where there are two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from statistics import median

from umamba2.anatomy.arches import JAWS_APART, LOWER_ARCH, SMALLEST_TOOTH, UPPER_ARCH
from umamba2.anatomy.structures import REFERENCE_VOXEL_MM3
from umamba2.reports import texts
from umamba2.reports.field import distance_of_partners, shows_both_sides, teeth_in_field
from umamba2.reports.measures import Measure
from umamba2.reports.reading import ReportCase

WARNING, NOTE = "warning", "note"

# Volumes in mm^3 that no healthy structure reaches, with a generous margin: large teeth of the anatomical literature
# times about two. Teeth by their position in the quadrant, central incisor to wisdom tooth.
LARGEST_TOOTH = (1300, 1100, 1700, 1300, 1300, 2500, 2500, 2500)
LARGEST = {
    "lower jawbone": 160_000, "upper jawbone": 250_000, "left inferior alveolar canal": 3000,
    "right inferior alveolar canal": 3000, "left maxillary sinus": 50_000, "right maxillary sinus": 50_000,
    "pharynx": 150_000, "bridge": 12_000, "crown": 20_000, "implant": 12_000, "left mandibular incisive canal": 800,
    "right mandibular incisive canal": 800, "lingual canal": 500, "pulp": 4000,
}  # fmt: skip

_MARGIN = 3.0  # mm that a structure without a partner may lie beyond the midline
_APART = 0.5  # share of the usual distance from which on two structures are on two sides, or in two jaws
_MOST_TEETH = 7  # of the 14 in a jaw, from which on a list of missing teeth says less than that there are none
_WHOLE_MOUTH = 50.0  # mm along each axis from which on a scan should show some tooth


@dataclass(frozen=True)
class Remark:
    """One line for the reader: a ``warning`` needs a look, a ``note`` is worth knowing."""

    level: str
    text: str


def check(case: ReportCase, measures: list[Measure]) -> list[Remark]:
    """Every remark on a case, warnings first."""
    found = [m for m in measures if m.voxels]
    structures = case.challenge.structures
    remarks = [Remark(WARNING, warning) for warning in case.warnings]
    remarks += [Remark(NOTE, texts.CHANGED.format(note)) for note in case.notes]
    if any(s.group == "teeth" and s.fdi is None for s in structures):
        return [*remarks, Remark(NOTE, texts.MANY_TEETH_AT_ONCE), *_only_one_has(case, measures)]
    if case.oriented:
        remarks += _sides(case, found) + _upper_lower(found)
    else:
        remarks.append(Remark(NOTE, texts.NO_ORIENTATION))
    if any(s.fdi for s in structures):
        remarks += _missing_teeth(case, measures)
    remarks += _volumes(found) + _only_one_has(case, measures)
    return sorted(remarks, key=lambda remark: remark.level != WARNING)


def missing_teeth(case: ReportCase, measures: list[Measure]) -> list[int]:
    """FDI numbers of the teeth that were not found although the scan shows their places, along the arches."""
    expected = {s.fdi for s in case.challenge.structures} - {m.structure.fdi for m in measures if m.voxels}
    shown = teeth_in_field(case, measures)
    return sorted(fdi for fdi in shown if fdi in expected)


def _missing_teeth(case: ReportCase, measures: list[Measure]) -> list[Remark]:
    if not any(m.structure.fdi for m in measures if m.voxels):
        small = min(n * mm for n, mm in zip(case.geometry.size, case.geometry.spacing)) < _WHOLE_MOUTH
        return [Remark(NOTE if small else WARNING, texts.NO_TOOTH)]
    missing = missing_teeth(case, measures)
    remarks = []
    for jaw, arch in (("upper", UPPER_ARCH), ("lower", LOWER_ARCH)):
        teeth = [fdi for fdi in missing if fdi in arch]
        wisdom = [fdi for fdi in teeth if fdi % 10 == 8]  # often never there, so no reason to worry
        others = [fdi for fdi in teeth if fdi % 10 != 8]
        if len(others) >= _MOST_TEETH and not any(m.structure.fdi in arch for m in measures if m.voxels):
            remarks.append(Remark(WARNING, texts.NO_TOOTH_IN_JAW[jaw]))
            continue
        if others:
            remarks.append(Remark(WARNING, texts.MISSING[jaw].format(_list(others))))
        if wisdom:
            remarks.append(Remark(NOTE, texts.NO_WISDOM_TOOTH[jaw].format(_list(wisdom))))
    return remarks


def _volumes(found: list[Measure]) -> list[Remark]:
    remarks, cut = [], []
    for m in found:
        number = m.structure.fdi
        smallest = (m.structure.min_voxels or 0) * REFERENCE_VOXEL_MM3
        largest: float = LARGEST.get(m.structure.name, inf)
        if number is not None:
            smallest, largest = SMALLEST_TOOTH[number % 10 - 1], LARGEST_TOOTH[number % 10 - 1]
        name, volume = _label(m), texts.volume(m.volume)
        name = name[0].upper() + name[1:]
        if m.volume > largest:
            remarks.append(Remark(WARNING, texts.LARGE.format(name, volume, texts.volume(largest))))
        elif m.volume < smallest and not m.at_border:
            remarks.append(Remark(WARNING, texts.SMALL.format(name, volume, texts.volume(smallest))))
        if number is not None and m.at_border:
            cut.append(number)
    if cut:
        remarks.append(Remark(NOTE, texts.AT_BORDER.format(_list(cut))))
    return remarks


def _sides(case: ReportCase, found: list[Measure]) -> list[Remark]:
    by_name = {m.structure.name: m for m in found}
    lefts = [m for m in found if _side(m) == "left" and m.structure.partner in by_name]
    pairs = [(left, by_name[left.structure.partner or ""]) for left in lefts]
    pairs = [p for p in pairs if abs(_from_to(p, 0)) >= _APART * distance_of_partners(p[0].structure)]
    middle = median((_centre(left, 0) + _centre(right, 0)) / 2 for left, right in pairs) if pairs else inf
    if not shows_both_sides(case, middle):
        return []
    swapped = [pair for pair in pairs if _from_to(pair, 0) < 0]
    if 1 < len(swapped) == len(pairs):
        return [Remark(WARNING, texts.MIRRORED)]
    remarks = [Remark(WARNING, texts.SIDES_SWAPPED.format(*map(_label, pair))) for pair in swapped]
    if len(pairs) < 2:
        return remarks
    alone = [m for m in found if _side(m) and not any(m in pair for pair in pairs)]
    astray = [m for m in alone if (_centre(m, 0) - middle) * (1 if _side(m) == "right" else -1) > _MARGIN]
    return remarks + [Remark(WARNING, texts.WRONG_SIDE[_side(m)].format(_label(m))) for m in astray]


def _upper_lower(found: list[Measure]) -> list[Remark]:
    by_name = {m.structure.fdi or m.structure.name: m for m in found}
    # A tooth bites on the one with the same place in the other arch: 1x on 4x, 2x on 3x.
    names = [*zip(UPPER_ARCH, LOWER_ARCH), ("upper jawbone", "lower jawbone")]
    pairs = [(by_name[upper], by_name[lower]) for upper, lower in names if upper in by_name and lower in by_name]
    pairs = [pair for pair in pairs if abs(_from_to(pair, 2)) >= _APART * JAWS_APART]
    swapped = [pair for pair in pairs if _from_to(pair, 2) < 0]
    if 1 < len(swapped) == len(pairs):
        return [Remark(WARNING, texts.UPSIDE_DOWN)]
    return [Remark(WARNING, texts.JAWS_SWAPPED.format(*map(_label, pair))) for pair in swapped]


def _only_one_has(case: ReportCase, measures: list[Measure]) -> list[Remark]:
    if case.truth is None:
        return []
    remarks = []
    for text, which in (
        (texts.TRUTH_ALONE, [m for m in measures if not m.voxels]),
        (texts.LABELS_ALONE, [m for m in measures if m.voxels and m.hd95 is None]),
    ):
        if which:
            names = [m.structure.fdi or texts.name(m.structure.name) for m in which]
            remarks.append(Remark(WARNING, text.format(_list(names))))
    return remarks


def _label(measure: Measure) -> str:
    """A structure as readers call it: "36 (lower left first molar)", "pharynx"."""
    number, name = measure.structure.fdi, texts.name(measure.structure.name)
    return name if number is None else texts.TOOTH.format(number, name)


def _side(measure: Measure) -> str:
    """The side that a structure belongs to, "" for the midline."""
    return next((word for word in measure.structure.name.split() if word in ("left", "right")), "")


def _centre(measure: Measure, axis: int) -> float:
    assert measure.centre is not None  # only of structures that were found
    return measure.centre[axis]


def _from_to(pair: tuple[Measure, Measure], axis: int) -> float:
    """How far the first of two lies beyond the second, to the left (axis 0) or up (axis 2), in mm."""
    return _centre(pair[0], axis) - _centre(pair[1], axis)


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
