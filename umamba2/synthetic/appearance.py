"""What tissue looks like in a scan whose every property is drawn at random, after the idea of SynthSeg.

A network trained on such images has to rely on shapes, not on the grey values of one scanner (Billot et al.,
arXiv 2107.09559). Phantoms use the grey values and the scanner; label maps of real anatomy get a whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from umamba2.anatomy.structures import PULP_OFFSET
from umamba2.synthetic.textbook import DATASET_ID, FDI_OF, Array, Labels, Mask

Image = npt.NDArray[np.int16]

ORAL_AIR = 0.6  # how often there is air in the mouth


def draw_greys(rng: np.random.Generator) -> dict[str, Any]:
    """Grey values (HU-like) of every tissue and the properties of the scanner.

    The ranges are far wider than those of patients and overlap; only air, soft tissue and bone keep their order, by
    which scans are harmonised.
    """
    uniform = rng.uniform
    soft = uniform(-60, 140)
    dentine, cortical = uniform(900, 2500), uniform(600, 2200)
    return {
        "soft": soft, "trabecular": uniform(150, 0.9 * cortical), "cortical": cortical, "dentine": dentine,
        "enamel": dentine + uniform(0, 1800), "pulp": uniform(0, 0.7 * dentine), "canal": uniform(-100, 500),
        "metal": uniform(2500, 11000), "air": uniform(-1000, -700), "fat": uniform(-250, 20),
        "gain": uniform(0.8, 1.25), "offset": uniform(-80, 80), "noise": uniform(5, 200), "blur": uniform(0.1, 0.7),
        "bias": rng.normal(0, 70, 4), "streak": uniform(50, 900), "texture": uniform(20, 300),
        "mottle": uniform(0, 80), "ceiling": rng.choice([12000.0, uniform(2000, 6000)]), "block": uniform(-700, 400),
    }  # fmt: skip


def expose(image: Array, spacing: npt.ArrayLike, grey: dict[str, Any], rng: np.random.Generator) -> Image:
    """What the scanner of `draw_greys` makes of a float32 image (z, y, x), which is changed: noise, blur, gain."""
    edges = np.asarray(spacing, float)
    sigma = grey["blur"] / edges
    # blurring shrinks white noise by about this factor, so it is made that much stronger first
    shrink = np.prod(np.minimum(1, 1 / np.sqrt(2 * np.sqrt(np.pi) * np.maximum(sigma, 1e-3))))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(grey["noise"] / shrink)
    ndimage.gaussian_filter(image, sigma, output=image, truncate=3.0)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape)
    plane = grey["bias"][0] * x + (grey["bias"][1] * y + grey["bias"][2] * y * y)[:, None]
    image += plane.astype(np.float32) + (grey["bias"][3] * z).astype(np.float32)[:, None, None]
    if grey["mottle"]:
        image += _cloud(image.shape, edges, 4.0, rng) * np.float32(grey["mottle"])
    image += 1000
    image *= np.float32(grey["gain"])
    image += np.float32(grey["offset"] - 1000)
    if grey.get("cylinder"):
        outside = np.hypot(*np.meshgrid(y, x, indexing="ij")) > grey["cylinder"] * 1.2
        image[:, outside] = -1000
    return np.clip(image, -1000, grey["ceiling"], out=image).astype(np.int16)


def image_of_labels(labels: npt.NDArray[Any], spacing: npt.ArrayLike, seed: int) -> tuple[Image, Labels]:
    """A random image of a label map, and the label map with the pulp of every tooth.

    What label maps do not show is made up: soft tissue around everything, bone with a cortex and a texture, enamel on
    what sticks out of the bone, pulp in the middle of teeth that have none, air in front of the face and in the mouth.

    Args:
        labels: ToothFairy3's dataset ids (z, y, x).
        spacing: mm (z, y, x).
        seed: Not negative; the same seed gives the same image.
    """
    rng = np.random.default_rng([seed, 6])
    grey = draw_greys(rng)
    edges = np.asarray(spacing, float)
    filled = labels.astype(np.uint8)
    fdi = FDI_OF[filled]
    teeth, canals = (
        fdi > 0,
        [_where(filled, words) for words in ("alveolar canal", ("incisive canal", "lingual canal"))],
    )
    hollow = _where(filled, ("pharynx", "sinus"))
    bone = _where(filled, "jawbone") | canals[0] | canals[1]
    structures = (filled > 0) & ~hollow

    away = ndimage.distance_transform_edt(~structures, edges).astype(np.float32)
    flesh = rng.uniform(8, 20)
    image = np.full(filled.shape, grey["air"], np.float32)
    image[_between(away < flesh)] = grey["soft"] + grey["fat"]
    image[_between(away < rng.uniform(0.4, 0.9) * flesh)] = grey["soft"]
    if teeth.any() and rng.random() < ORAL_AIR:
        image[_oral_air(teeth, edges, rng) & ~structures] = grey["air"]
    image[hollow] = grey["air"]

    depth = ndimage.distance_transform_edt(bone | teeth, edges).astype(np.float32)
    texture = _cloud(filled.shape, edges, rng.uniform(0.7, 2.0), rng)
    image[bone] = grey["trabecular"] + grey["texture"] * texture[bone]
    image[bone & (depth < rng.uniform(0.8, 2.5))] = grey["cortical"]
    for canal in canals:
        image[canal] += rng.choice([0.2, 0.6, 1.0]) * (grey["canal"] - image[canal])

    inside = ndimage.distance_transform_edt(teeth, edges).astype(np.float32)
    sticking_out = ndimage.distance_transform_edt(~bone, edges) > rng.uniform(1.0, 2.0)
    for tooth in np.unique(fdi[teeth]):
        image[fdi == tooth] = grey["dentine"] * rng.uniform(0.88, 1.12)
    image[teeth & sticking_out & (inside < rng.uniform(0.7, 1.6))] = grey["enamel"]
    middle = ndimage.maximum_filter(inside, [max(1, round(7 / mm)) for mm in edges])
    pulp = teeth & (filled == fdi) & (inside > np.maximum(0.9, rng.uniform(0.55, 0.75) * middle))
    filled[pulp] += PULP_OFFSET
    image[teeth & (filled != fdi)] = grey["pulp"]
    image[_where(filled, ("bridge", "crown", "implant"))] = grey["metal"]

    image = ndimage.gaussian_filter(image, 0.5)  # edges of label maps are stairs
    return expose(image, edges, grey, rng), filled


def _where(labels: Labels, endings: str | tuple[str, ...]) -> Mask:
    """The voxels of all structures whose names end so."""
    return np.isin(labels, [label for name, label in DATASET_ID.items() if name.endswith(endings)])


def _cloud(shape: Sequence[int], spacing: Array, size: float, rng: np.random.Generator) -> Array:
    """Smooth noise of unit strength with lumps of about ``size`` mm, float32."""
    coarse = rng.standard_normal([max(2, int(n * mm / size)) for n, mm in zip(shape, spacing, strict=True)])
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    cloud: Array = ndimage.zoom(coarse.astype(np.float32), zoom, order=1)
    return cloud


def _between(mask: Mask) -> Mask:
    """The mask and what lies between parts of it from left to right: tongue and throat between the jaws."""
    return np.maximum.accumulate(mask, axis=2) & np.maximum.accumulate(mask[..., ::-1], axis=2)[..., ::-1]


def _oral_air(teeth: Mask, spacing: Array, rng: np.random.Generator) -> Mask:
    """An ellipsoid of air behind the front teeth."""
    where = np.argwhere(teeth)
    low, high = where.min(0) * spacing, where.max(0) * spacing
    centre = (low + high) / 2 + rng.normal(0, 3, 3)
    radii = (rng.uniform(3, 12), rng.uniform(10, 30), rng.uniform(8, 24))
    z, y, x = (
        ((np.arange(n) * mm - c) / r) ** 2 for n, mm, c, r in zip(teeth.shape, spacing, centre, radii, strict=True)
    )
    air: Mask = z[:, None, None] + y[:, None] + x < 1
    return air
