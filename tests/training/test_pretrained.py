"""Which weights a training starts from: our slim folders, nnU-Net's checkpoints and the published ones."""

import pickle

import pytest
import torch
from small_models import ARCHITECTURE, PATCH, make_model

from umamba2.errors import InputError
from umamba2.models.folder import load_model, slim
from umamba2.models.network import build_network
from umamba2.training.pretrained import challenge_of, read_weights, transfer

HEAD = "segmentation heads of another task"
CLICKS = "the click branch of another task"


def network(name="umamba2.nets.UMamba2", classes=7, **changes):
    torch.manual_seed(99)
    return build_network(name, {**ARCHITECTURE, "patch_size": list(PATCH), **changes}, 1, classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "nnunet", prefix="module._orig_mod.", aliases=True)


def test_every_kind_of_file_gives_the_same_weights(folder, tmp_path):
    expected = load_model(folder).folds["0"]
    slim(folder, tmp_path / "slim")
    fold = folder / "fold_0"
    bare = tmp_path / "state.pth"
    torch.save(dict(expected), bare)
    for source in (
        folder, fold, fold / "checkpoint_best.pth", tmp_path / "slim", tmp_path / "slim" / "fold_0.safetensors", bare
    ):  # fmt: skip
        weights = read_weights(source)
        assert set(weights) == set(expected), source
        assert all(torch.equal(weights[key], expected[key]) for key in expected), source


def test_everything_but_the_heads_is_transferred(folder):
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    weights = read_weights(folder)
    done = transfer(net, weights)
    after = net.state_dict()
    heads = {key for key in after if ".seg_layers." in key}
    assert set(done.loaded) == set(after) - heads
    assert done.skipped == dict.fromkeys(sorted(heads, key=list(weights).index), HEAD)
    assert all(torch.equal(after[key], weights[key]) for key in done.loaded)
    assert all(torch.equal(after[key], before[key]) for key in heads)


def test_a_model_for_the_same_challenge_is_transferred_whole(tmp_path):
    name = "umamba2.nets.UMamba2Click"
    source, net = network(name, classes=3), network(name, classes=3)
    for parameter in source.parameters():
        parameter.data += 0.5
    done = transfer(net, source.state_dict(), same_task=True)
    assert done.skipped == {}
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


def test_the_challenge_of_a_model_is_read_from_its_folder(folder, tmp_path):
    made = make_model(tmp_path / "stsr")
    file = made / "fold_0" / "checkpoint_best.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["dataset_json"]["challenge"] = "stsr"
    torch.save(checkpoint, file)
    slim(made, tmp_path / "slim")
    assert challenge_of(made) == challenge_of(tmp_path / "slim") == "stsr"
    assert challenge_of(folder) is None
    assert challenge_of(made / "fold_0") is None


def test_published_self_supervised_weights(tmp_path):
    """Encoder and decoder of an autoencoder, one output channel, into a network with clicks."""
    source = network(classes=1).state_dict()
    path = tmp_path / "ssl.pth"
    torch.save({"network_weights": {f"module.{key}": value for key, value in source.items()}}, path)
    net = network("nnunetv2.nets.UMambaBot2_CrossAttn_Click2", classes=3)
    done = transfer(net, read_weights(path))
    branch = [key for key in net.state_dict() if "point_encoder" in key or "cross_attention" in key]
    assert {key for key, why in done.skipped.items() if why == CLICKS} == set(branch)
    assert {key for key, why in done.skipped.items() if why == HEAD} == {k for k in source if "seg_layers" in k}
    assert "mamba_layer.mamba.in_proj.weight" in done.loaded
    assert len(done.loaded) + len(done.skipped) == len(net.state_dict())


def test_reasons_are_told(folder):
    lines = []
    weights = read_weights(folder)
    weights["extra.weight"] = torch.zeros(1)
    del weights["encoder.stem.convs.0.conv.bias"]
    net = network(features_per_stage=[8, 16, 80])
    transfer(net, weights).report(lines.append, "model.pth")
    text = "\n".join(lines)
    assert lines[0].startswith("model.pth: ")
    assert "left out, not in this network: extra.weight" in text
    assert "left out, not in the file, starts afresh: encoder.stem.convs.0.conv.bias" in text
    assert "of shape (40,) where this network has (80,): " in text


def test_nothing_that_fits_is_an_error():
    with pytest.raises(InputError, match=r"pretrained weights: found none that fit.*layer is not in this network"):
        transfer(network(), {"layer": torch.zeros(3)})


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_bad_files_are_refused_without_running_them(tmp_path, capsys):
    evil = tmp_path / "evil.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "x": Evil()}, evil)
    raw = tmp_path / "raw.pth"
    raw.write_bytes(pickle.dumps(Evil()))
    empty = tmp_path / "empty.pth"
    torch.save({"epoch": 3}, empty)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    for path, expected in (
        (evil, "expected tensors and plain values only"),
        (raw, "expected"),
        (empty, "found no weights, expected a checkpoint with network_weights"),
        (broken, "expected a safetensors file"),
        (tmp_path / "absent.pth", "found no such file, expected a model folder or a checkpoint"),
        (tmp_path, "found no model"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            read_weights(path)
        assert str(path) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    torch.save({"network_weights": {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x.pth: found NaN or infinite weights \(b\), expected finite ones"):
        read_weights(tmp_path / "x.pth")


def test_the_references_own_pretraining_wraps_the_network(tmp_path):
    source = network(classes=1).state_dict()
    source |= {f"decoder.{key}": value for key, value in source.items() if key.startswith("encoder.")}
    path = tmp_path / "ckpt_best.pth"
    torch.save({"model": {f"encoder.{key}": value for key, value in source.items()}, "epoch": 3}, path)
    weights = read_weights(path)
    assert set(weights) == set(network(classes=1).state_dict())
    assert all(torch.equal(weights[key], source[key]) for key in weights)
