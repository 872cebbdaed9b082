"""Synthetic dental cone-beam CT with exact labels: every class of ToothFairy3 and of STSR, from one seed.

All anatomy is drawn from the seed in millimetres (`mouth`) before any grid exists, so one seed is the same mouth on
every grid; only noise differs. Its forms are implicit functions (`solids`), evaluated where the grid meets them
(`painting`).

Arrays are (z, y, x); incisors lie at small y and the patient's left at large x (DICOM LPS, identity direction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from umamba2.files import write_file
from umamba2.scans import memory
from umamba2.scans.clicks import click_json, simulate_clicks
from umamba2.synthetic.appearance import expose
from umamba2.synthetic.mouth import SIDES, draw_mouth
from umamba2.synthetic.painting import Canvas, add_streaks, paint_canal, paint_connectors, paint_field, paint_tooth
from umamba2.synthetic.textbook import DATASET_ID, Labels

if TYPE_CHECKING:
    from umamba2.synthetic.tooth_shapes import ToothShape

SHAPE, SPACING = (170, 272, 345), (0.3, 0.3, 0.3)  # voxels and mm (z, y, x) of a typical ToothFairy3 scan
_BYTES = 12  # of memory for each voxel, measured
IAC = "{} inferior alveolar canal"


@dataclass(frozen=True)
class Phantom:
    """A synthetic scan with its exact labels.

    Attributes:
        image: HU-like, int16 (z, y, x).
        labels: ToothFairy3's dataset ids, uint8 (z, y, x).
        stsr_labels: STSR's classes 0-12, uint8 (z, y, x).
        spacing: mm (z, y, x).
        clicks: Pairs of "Left_IAC" or "Right_IAC" and a voxel (z, y, x), five left then five right, none for a canal
            outside the field of view.
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    stsr_labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]
    clicks: tuple[tuple[str, tuple[int, int, int]], ...]


def make_phantom(
    seed: int,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    canal_contrast: float = 1.0,
    randomised: bool = False,
    tooth_shapes: dict[int, list[ToothShape]] | None = None,
) -> Phantom:
    """Make the synthetic scan of one seed on a grid.

    Args:
        seed: Not negative. The same arguments give the same bytes; the same seed on another grid is the same mouth.
        shape: Voxels (z, y, x).
        spacing: mm (z, y, x).
        canal_contrast: Dims the alveolar canals in the image, from 1 to 0, and leaves their labels: at 0 only clicks
            and the anatomy around tell where they run.
        randomised: For training networks that work on scans of any scanner: anatomy from wider ranges, bent as a
            whole, and every grey value drawn at random.
        tooth_shapes: What `read_tooth_shapes` returns; gives most teeth the form of a real one at about their sizes.

    Raises:
        ValueError: The seed is negative, the shape or spacing is not three positive numbers, there is no memory for so
            many voxels, or the contrast is out of range.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    shape, spacing = tuple(shape), tuple(float(s) for s in spacing)
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}, expected three positive whole numbers (z, y, x)")
    if prod(shape) * _BYTES > (free := memory.available()):
        raise ValueError(f"shape is {shape}, expected at most the {free / _BYTES:,.0f} voxels that there is memory for")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing is {spacing}, expected three positive numbers in mm (z, y, x)")
    if not 0 <= canal_contrast <= 1:
        raise ValueError(f"canal_contrast is {canal_contrast}, expected a number from 0 to 1")
    mouth = draw_mouth(seed, randomised, tooth_shapes)
    canvas = Canvas(mouth, shape, spacing)
    paint_field(canvas)
    paint_teeth(canvas, canal_contrast)
    image = expose(canvas.image, canvas.spacing, mouth.grey, np.random.default_rng([seed, 1]))
    return Phantom(image, canvas.labels, canvas.stsr, spacing, clicks_on(canvas.labels, seed))


def paint_teeth(canvas: Canvas, canal_contrast: float) -> None:
    """Canals, teeth, restorations and their streaks, in jaws that are painted already."""
    for canal in canvas.mouth.canals:
        if canal.name in map(IAC.format, SIDES):
            canal.contrast *= canal_contrast
        paint_canal(canvas, canal)
    metal = [paint_tooth(canvas, tooth) for tooth in canvas.mouth.teeth]
    paint_connectors(canvas)
    for number, centre in enumerate(metal):
        if centre is not None:
            add_streaks(canvas, centre, number, canvas.mouth.teeth[number].streak)


def clicks_on(labels: Labels, seed: int) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Simulated clicks on the alveolar canals of a label map, as a `Phantom` has them."""
    rng = np.random.default_rng([seed, 2])
    return tuple(
        (f"{side.title()}_IAC", click)
        for side in SIDES
        for click in simulate_clicks(labels == DATASET_ID[IAC.format(side)], rng)
    )


def write_phantoms(
    folder: str | Path, count: int, seed: int, shape: Sequence[int] = SHAPE, spacing: Sequence[float] = SPACING
) -> list[str]:
    """Write phantoms in ToothFairy3's training layout and return their case names, ``phantom_<seed>``.

    Writes ``images/<case>.mha``, ``labels/<case>.mha``, ``stsr/<case>_Mask.mha`` and, for n = 0..5,
    ``clicks/iac_clicks_<case>_<n>.json`` with the first n clicks of each side, voxels in array order (z, y, x).

    Args:
        folder: Where to; made if it is not there.
        count: How many.
        seed: Of the first; the others follow.
        shape: Voxels (z, y, x).
        spacing: mm (z, y, x).

    Raises:
        ValueError: ``count`` is negative, or as `make_phantom`.
        InputError: The folder cannot be written.
    """
    from umamba2.scans.volumes import Geometry, write_volume  # SimpleITK, which making phantoms can do without

    if count < 0:
        raise ValueError(f"count is {count}, expected zero or more")
    folder, cases = Path(folder), [f"phantom_{number:04d}" for number in range(seed, seed + count)]
    for number, case in enumerate(cases, start=seed):
        phantom = make_phantom(number, shape, spacing)
        grid = Geometry.of_array(phantom.image.shape, phantom.spacing)
        write_volume(folder / f"images/{case}.mha", phantom.image, grid)
        write_volume(folder / f"labels/{case}.mha", phantom.labels, grid)
        write_volume(folder / f"stsr/{case}_Mask.mha", phantom.stsr_labels, grid)
        for n in range(6):
            left, right = ([c for c in phantom.clicks if c[0].startswith(side)][:n] for side in ("Left", "Right"))
            write_file(folder / f"clicks/iac_clicks_{case}_{n}.json", click_json(left + right))
    return cases
