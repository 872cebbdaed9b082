"""Anatomical soft targets and the loss on them, against loops over voxels and the published list of neighbours."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2")

from umamba2.anatomy.structures import ANATOMY
from umamba2.challenges import MULTICLASS
from umamba2.training.losses import SoftDiceCE, blame, class_weights, neighbours, soft_targets

ID = {s.platform: s.training for s in ANATOMY}


def test_neighbours_are_the_published_ones():
    published = {
        # canals and sinuses, training ids
        3: (43,), 43: (3,), 4: (44,), 44: (4,), 5: (6,), 6: (5,),
        # central incisors: the lateral one of their side, the central one of the other, the pulp
        11: (12, 19, 46), 19: (11, 20, 46), 27: (28, 35, 46), 35: (27, 36, 46),
        # wisdom teeth: one neighbour and the pulp
        18: (17, 46), 26: (25, 46), 34: (33, 46), 42: (41, 46),
        # one in the middle of an arch
        14: (13, 15, 46), 38: (37, 39, 46),
    }  # fmt: skip
    found = neighbours(ANATOMY)
    assert {label: found[label] for label in published} == published
    assert set(found) == {3, 4, 5, 6, 43, 44, *range(11, 43)}


def test_neighbours_agree_with_the_tooth_numbers():
    found = neighbours(ANATOMY)
    for fdi in (s.platform for s in ANATOMY if s.platform >= 11 and s.platform < 49):
        quadrant, position = divmod(fdi, 10)
        expected = {ID[10 * quadrant + p] for p in (position - 1, position + 1) if 1 <= p <= 8}
        if position == 1:
            expected.add(ID[{1: 21, 2: 11, 3: 41, 4: 31}[quadrant]])
        assert set(found[ID[fdi]]) == expected | {46}, fdi


def test_soft_targets():
    table = soft_targets(ANATOMY, 0.1)
    torch.testing.assert_close(table.sum(1), torch.ones(47))
    assert table[11, 11] == pytest.approx(0.9)
    assert table[11, [12, 19, 46]].tolist() == pytest.approx([0.1 / 3] * 3)
    assert table[3, 43] == pytest.approx(0.1)
    for hard in (0, 1, 2, 7, 8, 9, 10, 45, 46):
        assert table[hard, hard] == 1


def naive(logits, labels, table, weights, batch_dice):
    """Dice and cross-entropy of soft targets, voxel by voxel."""
    batch, classes = logits.shape[:2]
    intersection, size = np.zeros((batch, classes)), np.zeros((batch, classes))
    entropy, voxels = 0.0, 0
    for b in range(batch):
        for voxel in np.ndindex(*logits.shape[2:]):
            raw = logits[(b, slice(None), *voxel)]
            probability = np.exp(raw - raw.max())
            probability /= probability.sum()
            target = table[labels[(b, 0, *voxel)]]
            intersection[b] += probability * target
            size[b] += probability + target
            entropy -= sum(w * q * math.log(p) for w, q, p in zip(weights, target, probability))
            voxels += 1
    if batch_dice:
        intersection, size = intersection.sum(0, keepdims=True), size.sum(0, keepdims=True)
    dice = (2 * intersection / size)[:, 1:].mean()
    return -dice, entropy / voxels


@pytest.mark.parametrize("batch_dice", [False, True])
def test_loss_equals_a_loop_over_voxels(batch_dice):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 47, 2, 3, 4)) * 2
    labels = rng.choice([0, 3, 5, 11, 18, 19, 43, 45, 46], size=(2, 1, 2, 3, 4))
    table, weights = soft_targets(ANATOMY, 0.1), class_weights(47, ((43, 10.0), (44, 10.0), (45, 10.0)))
    assert weights[[0, 42, 43, 44, 45, 46]].tolist() == [1, 1, 10, 10, 10, 1]
    loss = SoftDiceCE(table, weights, batch_dice, ddp=False)
    dice, entropy = naive(logits, labels, table.double().numpy(), weights.double().numpy(), batch_dice)
    arguments = torch.from_numpy(logits).float(), torch.from_numpy(labels).short()
    assert float(loss.dc(*arguments)) == pytest.approx(dice, rel=1e-5)
    assert float(loss.ce(*arguments)) == pytest.approx(entropy, rel=1e-5)
    assert float(loss(*arguments)) == pytest.approx(dice + entropy, rel=1e-5)


def test_hard_targets_give_the_losses_of_nnunet():
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 4, 4), torch.randint(0, 5, (2, 1, 4, 4, 4))
    ours = SoftDiceCE(torch.eye(5), torch.ones(5), batch_dice=True, ddp=False)
    theirs = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 0, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))


def test_the_cross_entropy_alone_prefers_the_incisive_canal():
    """What the documentation says of soft targets with weights: 0.9 against 0.1 times 10."""
    named = {s.name: s.training for s in ANATOMY}
    alveolar, incisive = named["left inferior alveolar canal"], named["left mandibular incisive canal"]
    weights = class_weights(len(ANATOMY) + 1, MULTICLASS.recipe.class_weights)
    loss = SoftDiceCE(soft_targets(ANATOMY, MULTICLASS.recipe.soft_target), weights, False, False)
    target = torch.full((1, 1, 1, 1, 1), alveolar)
    tried = torch.linspace(0.01, 0.99, 99)
    values = []
    for share in tried:  # of the incisive canal; the rest is the alveolar canal
        logits = torch.full((1, len(ANATOMY) + 1, 1, 1, 1), -50.0)
        logits[0, incisive], logits[0, alveolar] = share.log(), (1 - share).log()
        values.append(loss.ce(logits, target))
    assert tried[int(torch.stack(values).argmin())] == pytest.approx(10 / 19, abs=0.01)


def test_blame_names_the_culprit():
    loss = SoftDiceCE(torch.eye(3), torch.ones(3), batch_dice=False, ddp=False)
    data, outputs = torch.zeros(1, 1, 2, 2, 2), [torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 3, 1, 1, 1)]
    targets = [torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 1, 1, 1)]
    nan = torch.full_like
    assert blame(nan(data, math.nan), outputs, targets, loss) == "the input"
    assert blame(data, [outputs[0], nan(outputs[1], math.inf)], targets, loss) == (
        "the network's output (resolution 1)"
    )
    extreme = torch.tensor([3e38, -3e38, 0.0]).view(1, 3, 1, 1, 1)  # finite, but not its cross-entropy
    wrong = torch.ones(1, 1, 1, 1, 1)
    assert blame(data, [outputs[0], extreme], [targets[0], wrong], loss) == "the cross-entropy term (resolution 1)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_adds_up_in_full_precision_under_autocast(dtype):
    """Sums over 30,000 voxels in half precision are off in the third digit."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 47, 20, 30, 50, generator=generator)
    labels = torch.randint(0, 47, (1, 1, 20, 30, 50), generator=generator).short()
    loss = SoftDiceCE(soft_targets(ANATOMY, 0.1), class_weights(47, ((43, 10.0),)), batch_dice=False, ddp=False)
    expected = float(loss(logits, labels))
    with torch.autocast("cpu", dtype=dtype):
        assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-6)
        half = float(loss(logits.to(dtype), labels))
    assert half == pytest.approx(float(loss(logits.to(dtype).float(), labels)), rel=1e-6)
