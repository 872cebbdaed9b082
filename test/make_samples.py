"""Make the sample cases: phantoms in the platforms' layouts, with the ground truth in the graded ids.

    python test/make_samples.py

Writes ``test/<challenge>/input`` (what the platform mounts) and ``test/<challenge>/expected``. The seeds lie above
those that the demo models are trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from umamba2.anatomy.numberings import from_training, to_training
from umamba2.challenges import CHALLENGES
from umamba2.files import write_file
from umamba2.scans.clicks import NAMES, click_json
from umamba2.scans.volumes import Geometry, write_labels, write_volume
from umamba2.synthetic.phantoms import make_phantom

MULTICLASS, INTERACTIVE, STSR = CHALLENGES
HERE = Path(__file__).parent
STEP_HU = 16  # intensities are rounded to this: a tenth of the noise, and the files shrink by a third


def geometry(shape, spacing) -> Geometry:
    """A grid, (z, y, x), that is neither at the origin nor quite upright, because both get lost easily."""
    cos, sin = np.cos(np.radians(3)), np.sin(np.radians(3))
    direction = (cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0)
    return Geometry(tuple(shape[::-1]), tuple(spacing[::-1]), (-51.5, -42.25, 12.75), direction)


def write_image(path: Path, image: np.ndarray, where: Geometry) -> None:
    """Write an int16 (z, y, x) image, compressed."""
    write_volume(path, np.rint(image / STEP_HU).astype(np.int16) * np.int16(STEP_HU), where)


def graded(labels: np.ndarray, task: str) -> np.ndarray:
    """Dataset ids to the ids that the platform grades."""
    structures = CHALLENGES[task].structures
    return from_training(structures)[to_training(structures, "dataset")[labels]]


def multiclass(seed: int) -> None:
    """ToothFairy3 task 1: one scan."""
    phantom = make_phantom(seed, (112, 150, 170), (0.6, 0.6, 0.6))
    where = geometry(phantom.image.shape, phantom.spacing)
    folder, name = HERE / MULTICLASS, f"phantom{seed}.mha"
    write_image(folder / "input/images/cbct" / name, phantom.image, where)
    write_labels(folder / "expected" / name, graded(phantom.labels, MULTICLASS), where)


def interactive(seed: int) -> None:
    """ToothFairy3 task 2: one scan of a lower jaw, without clicks and with five for each canal."""
    phantom = make_phantom(seed, (112, 150, 170), (0.6, 0.6, 0.6))
    # The lower jaw only: the files come twice. Clicks are voxels (z, y, x) from the first slice, so they stay valid.
    top = int(np.flatnonzero(np.isin(phantom.labels, (3, 4)).any(axis=(1, 2)))[-1]) + 8
    image, labels = phantom.image[:top], phantom.labels[:top]
    where = geometry(image.shape, phantom.spacing)
    folder = HERE / INTERACTIVE
    for count in (0, 5):
        base = f"phantom{seed}_{count}"
        clicks = [c for side in NAMES for c in [c for c in phantom.clicks if c[0] == side][:count]]
        write_image(folder / f"input/images/cbct/{base}.mha", image, where)
        write_file(folder / f"input/iac_clicks_{base}.json", click_json(clicks))
    write_labels(folder / f"expected/phantom{seed}.mha", graded(labels, INTERACTIVE), where)


def stsr(seed: int) -> None:
    """STSR task 1: one scan around the teeth, with thicker slices."""
    phantom = make_phantom(seed, (110, 180, 200), (0.6, 0.5, 0.5))
    teeth = np.argwhere(phantom.stsr_labels > 0)
    low, high = np.maximum(teeth.min(axis=0) - 6, 0), teeth.max(axis=0) + 7
    box = tuple(slice(a, b) for a, b in zip(low, high))
    where = geometry(phantom.image[box].shape, phantom.spacing)
    folder, name = HERE / STSR, f"phantom_{seed}.nii.gz"
    write_image(folder / "input" / name, phantom.image[box], where)
    write_labels(folder / "expected" / name, phantom.stsr_labels[box], where)


if __name__ == "__main__":
    multiclass(9001)
    interactive(9002)
    stsr(9003)
    for path in sorted(HERE.glob("*/*/**/*.*")):
        if "output" not in path.parts:
            print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.relative_to(HERE)}")
