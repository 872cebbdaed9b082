"""Checkpoints of the published trainers get the published treatment, whatever they say of themselves."""

from __future__ import annotations

import json
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from small_models import INTENSITY, PATCH, make_model

from umamba2 import InputError, Predictor
from umamba2.challenges import CHALLENGES
from umamba2.models.folder import describe, load_model, slim

MULTICLASS, INTERACTIVE, STSR = "toothfairy3-multiclass", "toothfairy3-interactive", "stsr"
TASK1, TASK2 = "nnUNetTrainer_TF3_Task1_1500ep_accum2", "nnUNetTrainer_TF3_Task2_Click_1500ep_accum2"
PLAIN, CLICK = "nnunetv2.nets.UMambaBot2", "nnunetv2.nets.UMambaBot2_CrossAttn_Click2"
# As the method's authors describe them: canals, sinuses, incisive canals, and the teeth of facing quadrants.
PAIRS = [(3, 4), (5, 6), (43, 44), *zip(range(11, 19), range(19, 27)), *zip(range(27, 35), range(35, 43))]


def published(folder, trainer=TASK1, classes=47, network=PLAIN, mirror_axes=(0, 1), **options):
    return make_model(folder, network, classes, mirror_axes=mirror_axes, trainer=trainer, files=False, **options)


@torch.no_grad()
def naive_labels(net, volume, axes=(1, 2), step=0.95):
    """The released inference in a plain loop over its tiles: labels, and by how much the best score leads."""
    clipped = np.clip(volume, INTENSITY["percentile_00_5"], INTENSITY["percentile_99_5"])
    tensor = torch.from_numpy((clipped - INTENSITY["mean"]) / INTENSITY["std"]).float()
    swap = list(range(47))
    for left, right in PAIRS:
        swap[left], swap[right] = right, left
    places = []
    for size, patch in zip(volume.shape, PATCH):
        count = ceil((size - patch) / (patch * step)) + 1
        places.append([round((size - patch) / max(count - 1, 1) * i) for i in range(count)])
    weight = torch.full(PATCH, 10.0)
    for voxel in product(*map(range, PATCH)):
        for i, n in zip(voxel, PATCH):
            weight[voxel] *= np.exp(-0.5 * ((i - n // 2) / (n / 8)) ** 2)
    weight.clamp_(min=2.0**-24)  # nnU-Net holds it in half precision, and lets no voxel have none
    scores, total = torch.zeros(47, *volume.shape, dtype=torch.float64), torch.zeros(volume.shape)
    for z, y, x in product(*places):
        box = slice(z, z + PATCH[0]), slice(y, y + PATCH[1]), slice(x, x + PATCH[2])
        logits = torch.zeros(47, *PATCH)
        for flips in [(), (axes[0],), (axes[1],), axes]:
            seen = net(tensor[box].flip(flips)[None, None])[0].flip([axis + 1 for axis in flips])
            logits += (seen[swap] if 2 in flips else seen) / 4
        scores[:, box[0], box[1], box[2]] += logits / logits.max() * 100 * weight
        total[box] += weight
    best = scores.topk(2, dim=0).values
    return scores.argmax(0).numpy(), ((best[0] - best[1]) / total).numpy()


def test_a_published_checkpoint_runs_as_the_published_inference_does(tmp_path):
    model = load_model(published(tmp_path / "model"))
    predictor = Predictor.load(
        model, device="cpu", precision="fp32", **CHALLENGES[model.challenge].predictor_settings()
    )
    assert predictor.mirror_axes == (1, 2)
    volume = np.random.default_rng(0).normal(600, 900, (14, 47, 20)).astype(np.float32)
    labels = predictor.predict(volume, (0.3, 0.3, 0.3))
    net = model.network()
    model.load_weights(net, "0")
    expected, margin = naive_labels(net, volume)
    clear = margin > 0.01  # of scores up to 100: beyond what rounding can turn
    np.testing.assert_array_equal(labels[clear], expected[clear])
    assert clear.mean() > 0.99
    assert len(np.unique(labels)) > 5
    assert (labels != naive_labels(net, volume, axes=(0, 1))[0]).mean() > 0.02, (
        "this would notice the checkpoint's axes"
    )


@pytest.mark.parametrize(
    ("trainer", "classes", "network", "challenge"),
    [
        (TASK1, 47, PLAIN, MULTICLASS),
        ("nnUNetTrainer_TF3_Task1_accum2_cont", 47, PLAIN, MULTICLASS),
        ("nnUNetTrainer_LRMirror", 47, PLAIN, MULTICLASS),
        (TASK2, 3, CLICK, INTERACTIVE),
        ("nnUNetTrainer_STSR_Task1_accum2", 13, PLAIN, STSR),
    ],
)
def test_published_trainers_are_recognised(tmp_path, trainer, classes, network, challenge):
    folder = published(tmp_path / "model", trainer, classes, network)
    for place in (folder, slim(folder, tmp_path / "slim")):
        model = load_model(place)
        assert model.challenge == challenge
        assert model.challenge_reason == f"recognised by the trainer {trainer} and {classes} classes"
        assert model.mirror_axes == (1, 2)
        assert model.mirror_reason.startswith(f"as the published inference for {trainer}, whatever ")
        assert set(model.left_right_pairs) == {MULTICLASS: set(PAIRS), INTERACTIVE: {(1, 2)}, STSR: set()}[challenge]


@pytest.mark.parametrize(
    ("dataset", "classes", "network", "challenge"),
    [
        ("Dataset119_ToothFairy3", 47, PLAIN, MULTICLASS),
        ("Dataset219_ToothFairy3_IAN", 3, CLICK, INTERACTIVE),
        ("Dataset319_STSR2025", 13, PLAIN, STSR),
        ("Dataset119_ToothFairy3", 46, PLAIN, None),
        ("Dataset219_ToothFairy3_IAN", 3, PLAIN, None),
        ("Dataset112_ToothFairy2", 47, PLAIN, None),
    ],
)
def test_data_sets_are_recognised_but_another_trainers_word_stands(tmp_path, dataset, classes, network, challenge):
    model = load_model(published(tmp_path / "model", "nnUNetTrainer", classes, network, dataset_name=dataset))
    assert model.challenge == challenge
    reason = f"recognised by the data set {dataset} and {classes} classes" if challenge else "not stated"
    assert model.challenge_reason == reason
    assert (model.mirror_axes, model.mirror_reason) == ((0, 1), "stated in the checkpoint")


@pytest.mark.parametrize(
    ("trainer", "classes"), [(TASK1, 46), (TASK2, 47), ("nnUNetTrainer_onlyMirror01", 47), ("UMamba2Trainer", 47)]
)
def test_others_are_not_taken_for_published(tmp_path, trainer, classes):
    model = load_model(published(tmp_path / "model", trainer, classes))
    assert (model.challenge, model.challenge_reason) == (None, "not stated")
    assert (model.mirror_axes, model.mirror_reason) == ((0, 1), "stated in the checkpoint")
    assert load_model(published(tmp_path / "none", trainer, classes, mirror_axes=None)).mirror_reason == (
        "not stated in the checkpoint"
    )


def test_names_that_contradict_are_not_overruled(tmp_path):
    labels = {"background": 0, "left tooth": 1, "right tooth": 2, **{f"class {i}": i for i in range(3, 47)}}
    model = load_model(published(tmp_path / "model", description={"labels": labels}))
    assert model.challenge is None
    assert model.challenge_reason == (
        f"not stated; the trainer {TASK1} is of {MULTICLASS}, but the names of the classes are not"
    )
    assert model.left_right_pairs == ((1, 2),)


def test_sides_are_whole_words(tmp_path):
    labels = {"background": 0, "cleft": 1, "cright": 2, "Left canal": 3, "right canal": 4}
    assert load_model(make_model(tmp_path / "model", description={"labels": labels})).left_right_pairs == ((3, 4),)


def test_what_the_description_states_counts(tmp_path):
    folder = published(tmp_path / "model", description={"challenge": STSR, "orientation": "RAS"})
    model = load_model(folder)
    assert (model.challenge, model.challenge_reason) == (STSR, "stated in dataset.json")
    assert model.orientation == "RAS"
    model = load_model(slim(folder, tmp_path / "slim"))
    assert (model.challenge, model.challenge_reason) == (STSR, "stated in model.json")
    assert model.orientation == "RAS"
    assert load_model(published(tmp_path / "other", description={"challenge": ["?"]})).challenge == "['?']"


@pytest.mark.parametrize("code", ["LPX", "XPS", "LXS", "LPI ", "LLS", "lps", "None", 5, ["L", "P", "S"], ""])
def test_an_orientation_that_is_none_is_refused(tmp_path, code):
    with pytest.raises(InputError, match=r"found orientation .*, expected three letters such as LPS"):
        load_model(make_model(tmp_path / "model", description={"orientation": code}))


def test_the_dental_field_is_stated_and_kept(tmp_path):
    field = [[20, 30.5], [1, 2], [500, 40]]
    folder = make_model(tmp_path / "model", description={"dental_field": field})
    for place in (folder, slim(folder, tmp_path / "slim")):
        assert load_model(place).dental_field == ((20, 30.5), (1, 2), (500, 40))
        assert "dental field 50.5x3x540 mm (z, y, x)\n" in describe(place)
    assert load_model(published(tmp_path / "other")).dental_field is None


@pytest.mark.parametrize(
    "field",
    [
        "off", 5, [], [32, 32], [[32, 32]] * 2, [[32, 32]] * 4, [[32, 32], [30, 60], [57]], [[32, 32], [30, 60], 57],
        [[32, 32], [30, 60], [57, 0]], [[32, 32], [30, 60], [57, 501]], [[32, 32], [30, 60], [57, float("nan")]],
        [[32, 32], [30, 60], [True, 57]], [[32, 32], [30, 60], [57, "57"]], [[32, 32], [30, 60, 1], [57]],
        {"z": [32, 32]},
    ],
)  # fmt: skip
def test_a_dental_field_that_is_none_is_refused(tmp_path, field):
    with pytest.raises(InputError, match=r"found dental_field .*, expected three pairs of 1 to 500 mm"):
        load_model(make_model(tmp_path / "model", description={"dental_field": field}))


def test_that_teeth_are_tidied_up_is_stated_and_kept(tmp_path):
    folder = make_model(tmp_path / "model", description={"fix_numbers": True})
    for place in (folder, slim(folder, tmp_path / "slim")):
        assert load_model(place).fix_numbers is True
        assert "fix numbers  yes\n" in describe(place)
    assert load_model(published(tmp_path / "other")).fix_numbers is False


@pytest.mark.parametrize("stated", [1, "yes", None, [], {}])
def test_what_is_neither_true_nor_false_is_refused(tmp_path, stated):
    with pytest.raises(InputError, match=r"found fix_numbers .*, expected true or false"):
        load_model(make_model(tmp_path / "model", description={"fix_numbers": stated}))


def test_info_gives_the_reasons(tmp_path):
    text = describe(published(tmp_path / "model"))
    assert f"challenge    {MULTICLASS} (recognised by the trainer {TASK1} and 47 classes)\n" in text
    assert f"mirror axes  (1, 2) (as the published inference for {TASK1}, whatever the checkpoint says)\n" in text
    assert "orientation  not stated\n" in text
    assert "dental field not stated\n" in text


def test_the_demo_models_know_how_their_phantoms_lay():
    """Of a phantom in upright axes: left at large x, incisors before molars, the upper jaw above."""
    from umamba2.models.locate import DEMO_MODELS
    from umamba2.synthetic.phantoms import make_phantom

    labels = make_phantom(1, shape=(60, 90, 110), spacing=(1, 1, 1)).labels
    centre = {i: np.argwhere(labels == i).mean(0) for i in (1, 2, 3, 4, 11, 16)}
    assert centre[3][2] > centre[4][2]
    assert centre[11][1] < centre[16][1]
    assert centre[2][0] > centre[1][0]
    for name in CHALLENGES:
        assert json.loads((DEMO_MODELS / name / "model.json").read_text())["dataset"]["orientation"] == "LPS"
    # The field that they state reaches around the teeth, and further to the back than to the front.
    (front, back), *_ = load_model(DEMO_MODELS / MULTICLASS).dental_field[1:]
    assert front < back
