"""What was found in a scan: label maps that the page shows over it, lists, and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from umamba2.anatomy.groups import title
from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import Structure
from umamba2.challenges import Challenge
from umamba2.reports import texts
from umamba2.reports.checks import check
from umamba2.reports.field import teeth_in_field
from umamba2.reports.measures import measure
from umamba2.reports.reading import ReportCase
from umamba2.scans.volumes import Volume
from umamba2.web.view import View

WHOLE, CANALS = "whole", "canals"
# What the viewer draws: training ids for everything, these plus the training ids for the canals by clicks.
FIRST_SHOWN = {WHOLE: 0, CANALS: 200}


@dataclass(frozen=True)
class Layer:
    """One label map.

    Attributes:
        kind: ``whole`` or ``canals``; there is at most one of each over a scan.
        challenge: What its structures are.
        numbering: Its ids.
        labels: uint8 (z, y, x), on the scan's grid.
        source: Where it comes from, for people.
        warnings: One line for everything that was not as it should be.
        final: Whether it is what ``umamba2 predict`` gives: not one of the quick answers to clicks.
    """

    kind: str
    challenge: Challenge
    numbering: str
    labels: npt.NDArray[np.uint8]
    source: str
    warnings: tuple[str, ...] = ()
    final: bool = True

    @property
    def training(self) -> npt.NDArray[np.uint8]:
        """The label map in training ids."""
        translated: npt.NDArray[np.uint8] = self._table[self.labels]
        return translated

    def draw(self, onto: npt.NDArray[np.uint8], part: tuple[slice, ...]) -> None:
        """Put what the viewer draws for a part of the label map onto an array of that part's shape."""
        table = self._table.copy()
        table[table > 0] += FIRST_SHOWN[self.kind]
        drawn = table[self.labels[part]]
        np.copyto(onto, drawn, where=drawn > 0)

    def case(self, volume: Volume) -> ReportCase:
        """What a report of it is about."""
        return ReportCase.of_volume(volume, volume.name, self.training, self.challenge, self.numbering)

    def row(self, structure: Structure, volume: float, **more: Any) -> dict[str, Any]:
        """What the page lists of a structure."""
        return {
            "shown": FIRST_SHOWN[self.kind] + structure.training,
            "name": texts.name(structure.name),
            "title": title(structure),
            "group": structure.group,
            "colour": list(structure.colour),
            "fdi": structure.fdi,
            "mm3": round(volume, 3),
            "volume": texts.volume(volume),
            **more,
        }

    @property
    def _table(self) -> npt.NDArray[np.uint8]:
        return to_training(self.challenge.structures, self.numbering)


def describe(layer: Layer, volume: Volume, view: View) -> dict[str, Any]:
    """A label map of everything as the page lists it: structures, the tooth chart, what deserves a second look."""
    case = layer.case(volume)
    measures = measure(case)
    teeth = any(structure.fdi for structure in layer.challenge.structures)
    rows = [
        layer.row(m.structure, m.volume, centre=m.centre and view.seen(m.centre), cut=m.at_border)
        for m in measures
        if m.voxels
    ]
    return {
        **_head(layer),
        "rows": rows,
        "teeth": sorted(teeth_in_field(case, measures)) if teeth else None,
        "remarks": [{"level": remark.level, "text": remark.text} for remark in check(case, measures)] if rows else [],
    }


def describe_canals(layer: Layer, volume: Volume) -> dict[str, Any]:
    """A label map of the canals as the page lists it: fast enough for every click."""
    voxel = float(np.prod(volume.spacing))
    counts = np.bincount(layer.labels.ravel(), minlength=256)
    table = to_training(layer.challenge.structures, layer.numbering)
    found = {structure: int(counts[table == structure.training].sum()) for structure in layer.challenge.structures}
    return {**_head(layer), "rows": [layer.row(s, count * voxel) for s, count in found.items()]}


def _head(layer: Layer) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "challenge": layer.challenge.name,
        "title": layer.challenge.title,
        "source": layer.source,
        "warnings": list(layer.warnings),
        "final": layer.final,
    }
