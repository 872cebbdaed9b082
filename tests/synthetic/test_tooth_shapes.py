"""Real tooth shapes: read from label maps, and worn by phantoms."""

from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from umamba2.errors import InputError
from umamba2.synthetic.phantoms import make_phantom
from umamba2.synthetic.tooth_shapes import CELL, read_tooth_shapes

GRID = {"shape": (85, 136, 172), "spacing": (0.6,) * 3}
SEED = 2


def write(path, labels, spacing=0.6):
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(SEED, **GRID)


@pytest.fixture(scope="module")
def teeth(phantom):
    """A map of FDI numbers with the pulps filled in, and nothing else."""
    labels = np.where((phantom.labels > 110) & (phantom.labels < 149), phantom.labels - 100, phantom.labels)
    return np.where((labels > 10) & (labels < 49), labels, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def shapes(teeth, tmp_path_factory):
    return read_tooth_shapes([write(tmp_path_factory.mktemp("map") / "teeth.nii.gz", teeth)])


def test_shapes_are_the_teeth_of_the_map(teeth, shapes):
    """Laid over each other along their principal axes, which no code of the reader's is needed for."""
    scores = []
    for fdi, (shape,) in shapes.items():
        own = shape.low + CELL * np.argwhere(shape.surface < 0)
        parts, _ = ndimage.label(teeth == fdi)
        voxels = 0.6 * np.argwhere(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
        turn, back = (np.linalg.eigh(np.cov(points.T))[1] for points in (voxels, own))
        best = 0.0
        for signs in product((1, -1), repeat=3):
            laid = (voxels - voxels.mean(axis=0)) @ turn * signs @ back.T + own.mean(axis=0)
            shared = 0.6**3 * (shape.distance(*laid.T) < 0).sum()
            best = max(best, 2 * shared / (0.6**3 * len(voxels) + CELL**3 * len(own)))
        scores.append(best)
    assert len(scores) > 15
    assert min(scores) > 0.85


def test_distances_are_millimetres_and_grow_outside(shapes):
    for (shape,) in shapes.values():
        up = np.linspace(0, shape.crown + 6, 50)
        outside = shape.distance(0 * up, 0 * up, up)[up > shape.crown + 1]
        assert np.all(np.diff(outside) > 0)
        assert outside[-1] == pytest.approx(6, abs=1.5)
        assert shape.distance(np.zeros(1), np.zeros(1), np.zeros(1)) < 0


def test_stretching_moves_the_surface(shapes):
    (shape,) = next(iter(shapes.values()))
    wide = shape.stretched(1.2 * shape.crown, 0.8 * shape.root, (1.1 * shape.half[0], 0.9 * shape.half[1]))
    a, b, c = np.meshgrid(*(np.linspace(-14, 14, 40),) * 3, indexing="ij")
    before = shape.distance(a, b, c) < 0
    after = wide.distance(1.1 * a, 0.9 * b, np.where(c > 0, 1.2, 0.8) * c) < 0
    assert before.any()
    assert np.array_equal(before, after)


def test_the_pulp_lies_deep_in_the_tooth_and_not_in_the_top_of_the_crown(shapes):
    for (shape,) in shapes.values():
        pulp = shape.pulp < 0
        assert pulp.any()
        assert (shape.surface[pulp] < -0.15).all()
        height = (shape.low[2] + CELL * np.argwhere(pulp)[:, 2]).max()
        assert 0 < height < 0.5 * shape.crown


def test_a_map_that_is_mirrored_or_upside_down_gives_the_same_shapes(teeth, shapes, tmp_path):
    for number, flip in enumerate([np.s_[:, :, ::-1], np.s_[::-1, :, ::-1], np.s_[:, ::-1]]):
        again = read_tooth_shapes([write(tmp_path / f"{number}.nii.gz", teeth[flip].copy())])
        assert again.keys() == shapes.keys()
        for fdi, (shape,) in shapes.items():
            assert np.allclose(again[fdi][0].surface, shape.surface, atol=1e-3)
            assert np.allclose(again[fdi][0].pulp, shape.pulp, atol=1e-3)


def test_crowns_are_up_and_outward_is_buccal_and_back_is_distal(tmp_path):
    # wide crowns on narrow roots, with a shelf below the neck that juts out 2 mm backwards and 4 mm outwards
    labels = np.zeros((120, 90, 120), np.uint8)
    for fdi in (q + p for q in (10, 20, 30, 40) for p in (6, 7, 8)):
        out, up = (1 if fdi // 10 in (2, 3) else -1), (-1 if fdi < 30 else 1)
        x, y, z = 60 + 30 * out, 25 * (fdi % 10) - 130, (85 if fdi < 30 else 35)
        for half, low, high, back, aside in ((10, 0, 15, 0, 0), (6, -24, 0, 0, 0), (6, -6, -2, 4, 8)):
            rows = sorted((z + up * low, z + up * high))
            columns = sorted((x - out * half, x + out * (half + aside)))
            labels[slice(*rows), y - half : y + half + back, slice(*columns)] = fdi
    shapes = read_tooth_shapes([write(tmp_path / "blocks.nrrd", labels, 0.5)])
    assert len(shapes) == 12
    for shape in (shapes[fdi][0] for fdi in (17, 27, 37, 47)):  # the corners of this arch turn their teeth
        a, b, c = (shape.low + CELL * np.argwhere(shape.surface < 0)).T
        shelf = (c > -3.5) & (c < -1)
        back, aside = (v[shelf].max() + v[shelf].min() for v in (a, b))
        assert 0.5 < back < aside - 0.5  # the long axis leans a little towards the shelf, which shortens both
        assert np.ptp(a[c > 2]) > np.ptp(a[c < -7]) + 2


def test_teeth_that_are_not_whole_are_left_out(teeth, shapes, tmp_path):
    cut, broken = (next(f for f in sorted(shapes) if f // 10 == q and f % 10 > 3) for q in (1, 3))
    rows = np.flatnonzero((teeth == broken).any(axis=(1, 2)))
    damaged = teeth.copy()
    damaged[: rows[len(rows) // 2]][teeth[: rows[len(rows) // 2]] == broken] = 0
    column = np.flatnonzero((teeth == cut).any(axis=(0, 1)))[2]
    again = read_tooth_shapes([write(tmp_path / "damaged.nii.gz", damaged[:, :, column:].copy())])
    assert not {cut, broken} & again.keys()
    assert len(again) > len(shapes) / 2


def test_pulps_in_the_map_belong_to_their_teeth(phantom, shapes, tmp_path):
    again = read_tooth_shapes([write(tmp_path / "all.mha", phantom.labels)])
    assert again.keys() == shapes.keys()
    assert all(np.allclose(again[fdi][0].surface, shape.surface, atol=1e-3) for fdi, (shape,) in shapes.items())


@pytest.mark.parametrize(("value", "found"), [(2, "no tooth"), (19, "the id 19")])
def test_maps_without_fdi_numbers_are_refused(tmp_path, value, found):
    path = write(tmp_path / "other.nii.gz", np.full((5, 5, 5), value, np.uint8))
    with pytest.raises(InputError, match=f"other.nii.gz: found {found}, expected FDI numbers") as error:
        read_tooth_shapes([path])
    assert "\n" not in str(error.value)


def test_phantoms_wear_the_shapes_and_keep_their_teeth(phantom, shapes):
    plain = make_phantom(SEED, **GRID, tooth_shapes={})
    assert np.array_equal(plain.image, phantom.image)
    assert np.array_equal(plain.labels, phantom.labels)

    worn = make_phantom(SEED, **GRID, tooth_shapes=shapes)
    assert np.array_equal(worn.image, make_phantom(SEED, **GRID, tooth_shapes=shapes).image)
    present = [set(np.unique(p.labels[p.labels < 100])) for p in (phantom, worn)]
    assert present[0] == present[1]
    changed = worn.labels != phantom.labels
    natural = ((p.labels > 10) & (p.labels < 49) | (p.labels > 110) for p in (phantom, worn))
    assert 0.01 < changed.sum() / np.logical_or(*natural).sum() < 0.6
    pulp = (worn.labels > 110) & (worn.labels < 149)
    assert np.array_equal(worn.stsr_labels >= 2, pulp)
    # the teeth stay where they were
    for fdi in present[0] & set(shapes):
        one, other = (ndimage.center_of_mass(p.labels % 100 == fdi) for p in (phantom, worn))
        assert np.linalg.norm(np.subtract(one, other)) * 0.6 < 2.5
