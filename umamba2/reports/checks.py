"""What in a segmentation deserves a second look: missing teeth, odd volumes, structures on the wrong side.

The checks know anatomy, not the patient: a remark is a reason to look, never a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from statistics import median

from umamba2.anatomy.structures import FDI_TEETH, REFERENCE_VOXEL_MM3
from umamba2.reports.reading import Reading
from umamba2.reports.statistics import Measure

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

_SIDES_MIXED = "Left and right are mixed up"
_MIRRORED = (
    f"{_SIDES_MIXED} throughout: every left structure lies to the right of its partner. "
    "Either the labels or the orientation that the image states are mirrored."
)
_NOT_CHECKED = "These classes hold many teeth at once, so sizes and sides were not checked."
_JAWS_MIXED = "Upper and lower are mixed up"
_UPSIDE_DOWN = f"{_JAWS_MIXED} throughout: either the labels or the orientation that the image states are upside down."


@dataclass(frozen=True)
class Remark:
    """One line for the reader: a ``warning`` needs a look, a ``note`` is worth knowing."""

    level: str
    text: str


def check(reading: Reading, measures: list[Measure]) -> list[Remark]:
    """Every remark on a case, warnings first."""
    found = [m for m in measures if m.voxels]
    structures = reading.challenge.structures
    if any(s.group == "teeth" and s.fdi is None for s in structures):
        return [Remark(NOTE, _NOT_CHECKED), *_only_one_has(reading, measures)]
    remarks: list[Remark] = []
    if reading.oriented:
        remarks += _sides(found) + _upper_lower(found)
    else:
        remarks.append(Remark(NOTE, "The image does not state its orientation: sides and heights were not checked."))
    remarks += _missing_teeth([s.fdi for s in structures if s.fdi], found)
    remarks += _volumes(found) + _only_one_has(reading, measures)
    return sorted(remarks, key=lambda remark: remark.level != WARNING)


def label(measure: Measure) -> str:
    """A structure as readers call it: "36 (lower left first molar)", "pharynx"."""
    number = measure.structure.fdi
    return measure.structure.name if number is None else f"{number} ({measure.structure.name})"


def millimetres(volume: float) -> str:
    """A volume for reading: in mm^3 up to ten thousand, then in ml."""
    return f"{volume:,.0f} mm³" if volume < 10_000 else f"{volume / 1000:,.1f} ml"


def _missing_teeth(expected: list[int], found: list[Measure]) -> list[Remark]:
    present = {m.structure.fdi for m in found}
    missing = [fdi for fdi in expected if fdi not in present]
    remarks = []
    for jaw, quadrants in (("upper", (1, 2)), ("lower", (3, 4))):
        teeth = [fdi for fdi in missing if fdi // 10 in quadrants]
        if len(teeth) == 16:
            remarks.append(Remark(WARNING, f"No {jaw} tooth was found."))
            continue
        wisdom = [fdi for fdi in teeth if fdi % 10 == 8]  # often never there, so no reason to worry
        others = [fdi for fdi in teeth if fdi % 10 != 8]
        if others:
            remarks.append(Remark(WARNING, f"Missing {jaw} teeth: {_list(others)}."))
        if wisdom:
            remarks.append(Remark(NOTE, f"No {jaw} wisdom tooth {_list(wisdom)}."))
    return remarks


def _volumes(found: list[Measure]) -> list[Remark]:
    remarks, cut = [], []
    for m in found:
        number, smallest = m.structure.fdi, (m.structure.min_voxels or 0) * REFERENCE_VOXEL_MM3
        largest = LARGEST.get(m.structure.name, inf) if number is None else LARGEST_TOOTH[number % 10 - 1]
        name = label(m)
        name = name[0].upper() + name[1:]
        if m.volume > largest:
            limit = f"expected at most {millimetres(largest)}"
            remarks.append(Remark(WARNING, f"{name} is large: {millimetres(m.volume)}, {limit}."))
        elif m.volume < smallest and not m.at_border:
            limit = f"expected at least {millimetres(smallest)}"
            remarks.append(Remark(WARNING, f"{name} is small: {millimetres(m.volume)}, {limit}."))
        if number is not None and m.at_border:
            cut.append(number)
    if cut:
        remarks.append(Remark(NOTE, f"At the edge of the scan, so volumes may be incomplete: {_list(cut)}."))
    return remarks


def _side(measure: Measure) -> int:
    words = measure.structure.name.split()
    return ("left" in words) - ("right" in words)


def _sides(found: list[Measure]) -> list[Remark]:
    lefts = {m.structure.partner: m for m in found if m.structure.partner is not None and _side(m) == 1}
    pairs = [(lefts[m.structure.name], m) for m in found if m.structure.name in lefts]
    swapped = [(left, right) for left, right in pairs if _x(left) < _x(right)]
    if len(swapped) > 1 and len(swapped) == len(pairs):
        return [Remark(WARNING, _MIRRORED)]
    remarks = [
        Remark(WARNING, f"{_SIDES_MIXED}: {label(left)} lies to the right of {label(right)}.")
        for left, right in swapped
    ]
    if not pairs:
        return remarks
    middle = median((_x(left) + _x(right)) / 2 for left, right in pairs)
    paired = {m.structure.training for pair in pairs for m in pair}
    for m in found:
        if _side(m) * (_x(m) - middle) < -_MARGIN and m.structure.training not in paired:
            side, other = ("left", "right") if _side(m) == 1 else ("right", "left")
            text = f"{_SIDES_MIXED}: {label(m)} belongs to the {side} but lies on the {other}."
            remarks.append(Remark(WARNING, text))
    return remarks


def _upper_lower(found: list[Measure]) -> list[Remark]:
    teeth = {m.structure.fdi: m for m in found}
    by_name = {m.structure.name: m for m in found}
    # A tooth bites on the one with the same position in the quadrant below: 1x on 4x, 2x on 3x.
    pairs = [
        (teeth[upper], teeth[lower])
        for upper in FDI_TEETH[:16]
        if upper in teeth and (lower := (5 - upper // 10) * 10 + upper % 10) in teeth
    ]
    if "upper jawbone" in by_name and "lower jawbone" in by_name:
        pairs.append((by_name["upper jawbone"], by_name["lower jawbone"]))
    swapped = [(upper, lower) for upper, lower in pairs if _z(upper) < _z(lower)]
    if len(swapped) > 1 and len(swapped) == len(pairs):
        return [Remark(WARNING, _UPSIDE_DOWN)]
    return [Remark(WARNING, f"{_JAWS_MIXED}: {label(upper)} lies below {label(lower)}.") for upper, lower in swapped]


def _only_one_has(reading: Reading, measures: list[Measure]) -> list[Remark]:
    if reading.truth is None:
        return []
    remarks = []
    for text, which in (
        ("Only in the ground truth", [m for m in measures if not m.voxels]),
        ("Only in the segmentation", [m for m in measures if m.voxels and m.hd95 is None]),
    ):
        if which:
            names = [m.structure.fdi or m.structure.name for m in which]
            remarks.append(Remark(WARNING, f"{text}: {_list(names)}."))
    return remarks


def _x(measure: Measure) -> float:
    assert measure.centre is not None  # every measure here was found somewhere
    return measure.centre[0]


def _z(measure: Measure) -> float:
    assert measure.centre is not None
    return measure.centre[2]


def _list(items: list) -> str:
    return ", ".join(map(str, items))
