"""Orientations against SimpleITK's, and turning against its DICOMOrient filter."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from stand_in import OBLIQUE

from umamba2.errors import InputError
from umamba2.scans.orientation import code, orientation, tilt, to_patient, turned, turned_back, turned_points
from umamba2.scans.volumes import Geometry, from_image, to_image

CODES = ["".join(letters) for pairs in permutations(("LR", "PA", "SI")) for letters in product(*pairs)]


def geometry_of(wanted: str, size=(4, 5, 3)) -> Geometry:
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(wanted)
    return Geometry(size, (0.3, 0.4, 0.7), (-11.0, 12.0, 13.5), direction)


def rotated(degrees: float, axis: int) -> np.ndarray:
    a, b = (i for i in range(3) if i != axis)
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(np.radians(degrees))
    matrix[a, b] = -np.sin(np.radians(degrees))
    matrix[b, a] = np.sin(np.radians(degrees))
    return matrix


def test_there_are_48_codes():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("wanted", CODES)
def test_code_is_that_of_itk(wanted):
    geometry = geometry_of(wanted)
    assert code(geometry) == wanted
    assert tilt(geometry) == 0
    leaning = np.reshape(geometry.direction, (3, 3)) @ rotated(20, 1) @ rotated(-15, 2)
    direction = tuple(leaning.ravel())
    expected = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    assert code(Geometry(geometry.size, geometry.spacing, geometry.origin, direction)) == expected == wanted


@pytest.mark.parametrize("wanted", CODES)
@pytest.mark.parametrize("given", ["LPS", "RAS", "PSR", "ILA"])
def test_turned_as_itk_turns(given, wanted):
    geometry = geometry_of(given)
    array = np.arange(60, dtype=np.int16).reshape(geometry.shape)
    result, grid = turned(array, geometry, wanted)
    expected, expected_grid = from_image(sitk.DICOMOrient(to_image(array, geometry), wanted))
    np.testing.assert_array_equal(result, expected)
    assert np.shares_memory(result, array)
    assert (grid.size, grid.spacing) == (expected_grid.size, expected_grid.spacing)
    np.testing.assert_allclose(grid.origin, expected_grid.origin, atol=1e-12)
    np.testing.assert_array_equal(grid.direction, expected_grid.direction)
    np.testing.assert_array_equal(turned_back(result, geometry, wanted), array)


@pytest.mark.parametrize("wanted", CODES)
@pytest.mark.parametrize("geometry", [OBLIQUE, Geometry((3, 4, 5), (0.3, 0.4, 0.7), (1.0, 2.0, 3.0),
                                                        tuple(rotated(45, 2).ravel()))])  # fmt: skip
def test_turning_an_oblique_grid_moves_no_voxel(geometry, wanted):
    array = np.arange(np.prod(geometry.shape)).reshape(geometry.shape)
    result, grid = turned(array, geometry, wanted)
    assert result.shape == grid.shape
    points = np.argwhere(array >= 0)
    moved = turned_points(points, geometry.shape, geometry, wanted)
    np.testing.assert_array_equal(result[tuple(moved.T)], array.ravel())
    np.testing.assert_allclose(to_patient(grid, moved), to_patient(geometry, points), atol=1e-9)
    np.testing.assert_array_equal(turned_back(result, geometry, wanted), array)
    assert tilt(grid) == pytest.approx(tilt(geometry))


def test_points_keep_their_type_and_their_fractions():
    points = np.array([[0.25, 1, 2]], np.float32)
    result = turned_points(points, (3, 5, 4), geometry_of("LPS"), "IAR")
    np.testing.assert_array_equal(result, [[1, 3, 1.75]])
    assert result.dtype == np.float32
    np.testing.assert_array_equal(points, [[0.25, 1, 2]])
    assert turned_points(np.zeros((0, 3)), (3, 5, 4), geometry_of("LPS"), "RAS").shape == (0, 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tilt_is_the_largest_lean(axis):
    # One axis does not lean at all: the largest cosine says 0.
    geometry = Geometry((4, 5, 3), (1, 1, 1), (0, 0, 0), tuple(rotated(25, axis).ravel()))
    assert tilt(geometry) == pytest.approx(25)
    assert orientation(geometry).tilt == tilt(geometry)


@pytest.mark.parametrize("wanted", ["", "LP", "LLS", "LRS", "lps", "LPSA", "XYZ"])
def test_codes_that_are_none(wanted):
    with pytest.raises(InputError, match=f"orientation: found '{wanted}', expected"):
        turned(np.zeros((3, 5, 4)), geometry_of("LPS"), wanted)


@pytest.mark.parametrize("seed", range(6))
def test_upright_arrays_grow_to_the_top_the_back_and_the_left(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    turn = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    geometry = Geometry((4, 5, 6), (0.3, 0.4, 0.5), (1.0, 2.0, 3.0), tuple((turn @ matrix).ravel()))
    points = to_patient(geometry, np.stack(np.meshgrid(*map(np.arange, (6, 5, 4)), indexing="ij"), -1).reshape(-1, 3))
    frame = orientation(geometry)
    for axis, coordinate in enumerate((2, 1, 0)):
        upright = frame.upright(points[:, coordinate].reshape(6, 5, 4))
        steps = np.diff(upright, axis=axis)
        assert (steps > 0).all()
        np.testing.assert_allclose(steps.mean() / np.cos(np.radians(frame.tilt)), frame.spacing[axis], rtol=0.2)
        name, index = frame.stored(axis, 1, upright.shape[axis])
        stored_axis = "zyx".index(name)
        assert stored_axis == frame.axes[axis]
        marker = np.zeros((6, 5, 4))
        marker.swapaxes(0, stored_axis)[index] = 1
        assert (frame.upright(marker).swapaxes(0, axis)[1] == 1).all()
    assert 0 < frame.tilt < 30


def test_patient_coordinates_are_simpleitks():
    image = sitk.Image(OBLIQUE.size, sitk.sitkUInt8)
    image.SetSpacing(OBLIQUE.spacing)
    image.SetOrigin(OBLIQUE.origin)
    image.SetDirection(OBLIQUE.direction)
    indices = np.array([(0, 0, 0), (1, 2, 3), (6, 10, 12)])
    expected = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in indices]
    np.testing.assert_allclose(to_patient(OBLIQUE, indices), expected)
