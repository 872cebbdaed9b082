"""What tissue looks like in a scan whose every property is drawn at random, after the idea of SynthSeg.

A network trained on such images has to rely on shapes, not on the grey values of one scanner (Billot et al.,
arXiv 2107.09559). Phantoms use the grey values and the scanner; label maps of real anatomy get a whole image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

MANDIBLE, MAXILLA, PHARYNX = 1, 2, 7
CANALS, SINUSES, METAL, SMALL_CANALS = (3, 4), (5, 6), (8, 9, 10), (103, 104, 105)
PULP = 100  # this much above a tooth's FDI number is its pulp
ORAL_AIR = 0.6  # how often there is air in the mouth


def draw_greys(rng: np.random.Generator) -> dict:
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


def expose(image: np.ndarray, spacing: ArrayLike, grey: dict, rng: np.random.Generator) -> np.ndarray:
    """What the scanner makes of an image (z, y, x), float32, which is changed: noise, blur, bias, gain; int16."""
    edges = np.asarray(spacing, float)
    sigma = grey["blur"] / edges
    # blurring shrinks white noise by about this factor, so it is made that much stronger first
    shrink = np.prod(np.minimum(1, 1 / np.sqrt(2 * np.sqrt(np.pi) * np.maximum(sigma, 1e-3))))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(grey["noise"] / shrink)
    image = ndimage.gaussian_filter(image, sigma, output=image, truncate=3.0)
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


def image_of_labels(labels: np.ndarray, spacing: ArrayLike, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random image of a label map, int16, and the label map with the pulp of every tooth, uint8; both (z, y, x).

    ``labels`` in ToothFairy3's dataset ids; ``spacing`` mm (z, y, x). What label maps do not show is made up: soft
    tissue around everything, bone with a cortex and a texture, enamel on what sticks out of the bone, pulp in the
    middle of teeth that have none, air in front of the face and in the mouth.
    """
    rng = np.random.default_rng([seed, 6])
    grey = draw_greys(rng)
    edges = np.asarray(spacing, float)
    labels = labels.astype(np.uint8)
    teeth = ((labels > 10) & (labels < 50)) | (labels > 110)
    hollow = np.isin(labels, (PHARYNX, *SINUSES))
    bone = np.isin(labels, (MANDIBLE, MAXILLA, *CANALS, *SMALL_CANALS))
    structures = (labels > 0) & ~hollow

    away = ndimage.distance_transform_edt(~structures, edges).astype(np.float32)
    flesh = rng.uniform(8, 20)
    image = np.full(labels.shape, grey["air"], np.float32)
    image[_between(away < flesh)] = grey["soft"] + grey["fat"]
    image[_between(away < rng.uniform(0.4, 0.9) * flesh)] = grey["soft"]
    if teeth.any() and rng.random() < ORAL_AIR:
        image[_oral_air(teeth, edges, rng) & ~structures] = grey["air"]
    image[hollow] = grey["air"]

    depth = ndimage.distance_transform_edt(bone | teeth, edges).astype(np.float32)
    texture = _cloud(labels.shape, edges, rng.uniform(0.7, 2.0), rng)
    image[bone] = grey["trabecular"] + grey["texture"] * texture[bone]
    image[bone & (depth < rng.uniform(0.8, 2.5))] = grey["cortical"]
    for ids in (CANALS, SMALL_CANALS):
        canal = np.isin(labels, ids)
        image[canal] += rng.choice([0.2, 0.6, 1.0]) * (grey["canal"] - image[canal])

    inside = ndimage.distance_transform_edt(teeth, edges).astype(np.float32)
    sticking_out = ndimage.distance_transform_edt(~bone, edges) > rng.uniform(1.0, 2.0)
    for tooth in np.unique(labels[teeth] % PULP):
        own = teeth & (labels % PULP == tooth)
        image[own] = grey["dentine"] * rng.uniform(0.88, 1.12)
    image[teeth & sticking_out & (inside < rng.uniform(0.7, 1.6))] = grey["enamel"]
    middle = ndimage.maximum_filter(inside, [max(1, round(7 / mm)) for mm in edges])
    pulp = teeth & (labels < 50) & (inside > np.maximum(0.9, rng.uniform(0.55, 0.75) * middle))
    labels[pulp] += PULP
    image[labels > 110] = grey["pulp"]
    image[np.isin(labels, METAL)] = grey["metal"]

    image = ndimage.gaussian_filter(image, 0.5)  # edges of label maps are stairs
    return expose(image, edges, grey, rng), labels


def _cloud(shape: tuple[int, ...], spacing: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit strength with lumps of about ``size`` mm, float32."""
    coarse = rng.standard_normal([max(2, int(n * mm / size)) for n, mm in zip(shape, spacing, strict=True)])
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    return ndimage.zoom(coarse.astype(np.float32), zoom, order=1)


def _between(mask: np.ndarray) -> np.ndarray:
    """The mask and what lies between parts of it from left to right: tongue and throat between the jaws."""
    return np.maximum.accumulate(mask, axis=2) & np.maximum.accumulate(mask[..., ::-1], axis=2)[..., ::-1]


def _oral_air(teeth: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An ellipsoid of air behind the front teeth."""
    where = np.argwhere(teeth)
    low, high = where.min(0) * spacing, where.max(0) * spacing
    centre = (low + high) / 2 + rng.normal(0, 3, 3)
    radii = (rng.uniform(3, 12), rng.uniform(10, 30), rng.uniform(8, 24))
    z, y, x = (
        ((np.arange(n) * mm - c) / r) ** 2 for n, mm, c, r in zip(teeth.shape, spacing, centre, radii, strict=True)
    )
    return z[:, None, None] + y[:, None] + x < 1
