"""The numbers and remarks of a report as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from umamba2.anatomy.numberings import ids_of
from umamba2.files import write_file
from umamba2.reports.checks import Remark, check, missing_teeth
from umamba2.reports.measures import Measure, measure
from umamba2.reports.reading import ReportCase


def write_statistics(path: str | Path, case: ReportCase) -> None:
    """Write volumes, agreement and remarks of a case as JSON; InputError if that is not possible."""
    measures = measure(case)
    write_file(path, json.dumps(to_json(case, measures, check(case, measures)), indent=2, allow_nan=False) + "\n")


def to_json(case: ReportCase, measures: list[Measure], remarks: list[Remark]) -> dict[str, Any]:
    """The numbers and remarks of a report as plain data; ids are those of the case's numbering."""
    structures = [
        {
            "id": ids_of(m.structure, case.numbering)[0],
            "fdi": m.structure.fdi,
            "name": m.structure.name,
            "voxels": m.voxels,
            "volume_mm3": round(m.volume, 4),
            "volume_ml": round(m.volume / 1000, 7),
            "centre_lps_mm": None if m.centre is None else [round(value, 3) for value in m.centre],
            "at_border": m.at_border,
            **({} if case.truth is None else {"dice": m.dice, "hd95_voxels": m.hd95}),
        }
        for m in measures
    ]
    return {
        "case": case.name,
        "challenge": case.challenge.name,
        "numbering": case.numbering,
        "size_xyz": list(case.geometry.size),
        "spacing_xyz_mm": list(case.geometry.spacing),
        "structures": structures,
        **({"missing_teeth": missing_teeth(case, measures)} if any(s.fdi for s in case.challenge.structures) else {}),
        "remarks": [{"level": remark.level, "text": remark.text} for remark in remarks],
    }
