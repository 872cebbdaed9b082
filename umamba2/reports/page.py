"""The report page: one HTML file with everything in it, to read, to print and to keep.

The page loads nothing from anywhere, and says so to the browser (Content-Security-Policy). It has no script. Its form
is in ``page.html.j2`` and ``style.css``, its words in `umamba2.reports.texts`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

import umamba2
from umamba2.anatomy.arches import LOWER_ARCH, UPPER_ARCH
from umamba2.anatomy.groups import by_group
from umamba2.anatomy.numberings import ids_of
from umamba2.anatomy.structures import Colour
from umamba2.engine.progress import Watch, steps
from umamba2.files import write_file
from umamba2.reports import texts
from umamba2.reports.checks import check
from umamba2.reports.field import teeth_in_field
from umamba2.reports.measures import measure
from umamba2.reports.overview import VIEWS, render_views
from umamba2.reports.reading import ReportCase
from umamba2.reports.slices import PLANES, SHOWN, cut_slices
from umamba2.scans.orientation import tilt

_Made = TypeVar("_Made")
_BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue to the eye (ITU-R BT.601)


def write_report(path: str | Path, case: ReportCase, watch: Watch | None = None) -> None:
    """Write the report of a case as one HTML file.

    Args:
        path: The file.
        case: The case.
        watch: Is told after each picture that is drawn or packed how many are done and how many there are, at most.
            What it raises, such as `umamba2.Cancelled`, ends the work and is raised here; nothing is written then.

    Raises:
        InputError: The file cannot be written.
    """
    write_file(path, make_page(case, watch))


def make_page(case: ReportCase, watch: Watch | None = None) -> str:
    """The report of a case as HTML; the arguments are those of `write_report`."""
    layers = 2 if case.truth is None else 3
    step = steps(watch, 2 * len(VIEWS) + (1 + layers) * len(PLANES) * len(SHOWN))
    measures, size, spacing = measure(case), case.geometry.size, case.geometry.spacing
    groups = {
        group: [m for m in measures if m.structure in members]
        for group, members in by_group(case.challenge.structures).items()
    }

    def inline(picture: Image.Image) -> str:
        return _counted(_inline(picture), step)

    environment = Environment(
        loader=PackageLoader("umamba2.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "css": lambda colour: "#{:02x}{:02x}{:02x}".format(*colour),
        "id": lambda m: ids_of(m.structure, case.numbering)[0],
        "inline": inline,
        "is_dark": _is_dark,
    }
    return environment.get_template("page.html.j2").render(
        text=texts,
        version=umamba2.__version__,
        case=case,
        extent=[n * mm for n, mm in zip(size, spacing)],
        tilt=tilt(case.geometry),
        voxel=spacing[0] if np.ptp(spacing) < 1e-3 * max(spacing) else 0,  # mm; 0 if its sides differ
        remarks=check(case, measures),
        views=[_counted(view, step) for view in render_views(case)],
        slices=[_counted(cut, step) for cut in cut_slices(case)],
        has_teeth=any(s.fdi for s in case.challenge.structures),
        arches=(UPPER_ARCH, LOWER_ARCH),  # as dentists draw them: the patient's right on the left, upper teeth above
        found={m.structure.fdi: m for m in measures if m.voxels},
        shown=teeth_in_field(case, measures),
        groups=[(group, rows) for group, rows in groups.items() if rows],
    )


def _counted(made: _Made, step: Callable[[], None]) -> _Made:
    """What was made, once a watcher has been told of it."""
    step()
    return made


def _inline(picture: Image.Image) -> str:
    """A picture as an address that holds it whole."""
    stream = BytesIO()
    kind = "jpeg" if picture.mode == "L" else "png"
    if kind == "jpeg":
        picture.save(stream, "JPEG", quality=88)
    else:
        flat = picture.getcolors(257)  # flat colours: a palette is far smaller
        (picture.quantize(256, Image.Quantize.FASTOCTREE) if flat else picture).save(stream, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _is_dark(colour: Colour) -> bool:
    return float(np.dot(colour, _BRIGHTNESS)) < 115
