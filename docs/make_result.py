"""Make docs/result.png: a phantom the demo model has never seen, what it finds in it, and the ground truth.

python docs/make_result.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from umamba2 import Predictor
from umamba2.anatomy.numberings import to_training
from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import MULTICLASS
from umamba2.engine.postprocess import postprocess
from umamba2.synthetic.phantoms import make_phantom

ROOT = Path(__file__).resolve().parents[1]
SEED = 9001  # the sample case in test/


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A slice of HU in grey with its structures in their colours, RGB."""
    colours = np.array([(0, 0, 0)] + [s.colour for s in ANATOMY]) / 255
    grey = np.clip((image + 600) / 3000, 0, 1)[..., None].repeat(3, -1)
    return np.where(labels[..., None] > 0, 0.45 * grey + 0.55 * colours[labels], grey)


def main() -> None:
    phantom = make_phantom(SEED)
    truth = to_training(ANATOMY, "dataset")[phantom.labels]
    predictor = Predictor.load(ROOT / "resources" / MULTICLASS.name, **MULTICLASS.predictor_settings())
    found = predictor.predict(phantom.image.astype(np.float32), phantom.spacing)
    found = postprocess(found, MULTICLASS, phantom.spacing, clicks=None)
    z, y = (round(np.argwhere((truth > 10) & (truth < 43))[:, axis].mean()) for axis in (0, 1))
    views = (lambda a: a[z], lambda a: a[::-1, y])  # axial, coronal
    none = np.zeros_like(truth)
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.2), facecolor="black", height_ratios=[272, 170])
    for row, view in zip(axes, views, strict=True):
        for axis, labels in zip(row, (none, found, truth), strict=True):
            axis.imshow(overlay(view(phantom.image), view(labels)))
            axis.axis("off")
    for axis, title in zip(axes[0], ("scan", "found", "ground truth"), strict=True):
        axis.set_title(title, color="white")
    figure.tight_layout(pad=0.4)
    figure.savefig(ROOT / "docs" / "result.png", dpi=90, facecolor="black")


if __name__ == "__main__":
    main()
