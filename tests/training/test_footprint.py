"""What a step takes in memory, against a count by hand, and how times are told."""

import pytest
import torch
from torch import nn

from umamba2.training.footprint import duration, training_bytes


def test_what_is_kept_for_the_backward_pass_is_counted():
    """A convolution keeps its input, a leaky ReLU its output, the loss its difference; weights count three times."""

    def build():
        return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.LeakyReLU(inplace=True), nn.Conv3d(8, 1, 1))

    voxels, weights = 16**3, 8 * 27 + 8 + 8 + 1
    kept = voxels * (1 + 8 + 1 + 1)  # patch, activation, and what the mean squared error keeps: answer and target
    found = training_bytes(build, nn.MSELoss(), (1, 1, 16, 16, 16), None, None)
    assert found == 4 * (3 * weights + kept - voxels)  # the target is the patch
    two = training_bytes(build, nn.MSELoss(), (1, 1, 16, 16, 16), None, None, momenta=2)
    assert two - found == 4 * weights
    half = training_bytes(build, nn.MSELoss(), (1, 1, 16, 16, 16), None, torch.bfloat16)
    assert 0.5 * found < half < found


def test_levels_have_targets_of_their_own():
    shapes = []

    def loss(outputs, targets):
        shapes.extend(tuple(target.shape) for target in targets)
        return outputs.mean()

    scales = [[1, 1, 1], [0.5, 0.5, 0.5], [0.5, 0.25, 0.25]]
    training_bytes(lambda: nn.Conv3d(1, 1, 1), loss, (2, 1, 8, 16, 16), scales, None)
    assert shapes == [(2, 1, 8, 16, 16), (2, 1, 4, 8, 8), (2, 1, 4, 4, 4)]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "1 min"), (150, "2 min"), (3600, "1 h 0 min"), (7260, "2 h 1 min"), (86400 * 2.25, "2 d 6 h")],
)
def test_times_are_told_in_two_units(seconds, said):
    assert duration(seconds) == said
