"""Model files that somebody made to do harm: one clear line each, at once, and nothing written elsewhere."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from small_models import make_model

import umamba2
from umamba2.challenges import CHALLENGES
from umamba2.engine.runner import Runner
from umamba2.errors import InputError, ModelError
from umamba2.files import write_file
from umamba2.models import checkpoint, pickles, plain, weights, zips
from umamba2.models.checkpoint import open_checkpoint
from umamba2.models.folder import describe, load_model, slim
from umamba2.models.weights import read_weights
from umamba2.scans import memory
from umamba2.training.pretrained import read_weights as pretrained_weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model in both layouts."""
    place = tmp_path_factory.mktemp("whole")
    slim(make_model(place / "nnunet"), place / "slim")
    return place


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model")


def refused(read, what, match):
    with pytest.raises(ModelError, match=match) as caught:
        read(what)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700 + len(str(what))


def read_or_refused(read, what):
    """What comes of any file: something, or one line."""
    try:
        return read(what)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith(str(what))
    assert len(message) < 1000 + len(str(what))
    return None


def change(folder, **entries):
    path = folder / "fold_0" / "checkpoint_best.pth"
    content = torch.load(path, weights_only=False)
    content.update(entries)
    torch.save(content, path)
    return content


def archive(path, content: bytes, *storages: bytes, compression=zipfile.ZIP_STORED, folder="x"):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{folder}/data.pkl", content)
        for number, storage in enumerate(storages):
            file.writestr(f"{folder}/data/{number}", storage)
    return path


def nested(kind):
    """2^60 values in 60."""
    value = kind()
    for _ in range(60):
        value = kind((value, value))
    return value


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("entry", ["init_args", "trainer_name", "inference_allowed_mirroring_axes"])
def test_lists_of_themselves_end(folder, kind, entry):
    change(folder, **{entry: {"plans": nested(kind)} if entry == "init_args" else nested(kind)})
    refused(load_model, folder, "found values nested into one another without end")


def test_the_same_bytes_and_tensors_again_and_again(folder, monkeypatch):
    """Written once in the file, and each a long text, which took minutes and gigabytes."""
    monkeypatch.setattr(torch.Tensor, "__repr__", lambda _: pytest.fail("the text of a tensor"))
    path = folder / "fold_0/checkpoint_best.pth"
    tensor, content = torch.zeros(1000), bytes(2**20)
    change(folder, init_args={**torch.load(path, weights_only=False)["init_args"], "more": [tensor] * 5000})
    load_model(folder)
    change(folder, trainer_name=[content] * 100)
    refused(load_model, folder, "found values nested into one another without end")


def test_depth_is_bounded(folder):
    deep = []
    for _ in range(100):
        deep = [deep]
    change(folder, trainer_name=deep)
    refused(load_model, folder, "found values nested into one another without end")


def test_keys_that_take_for_ever_to_hash_are_not_hashed(tmp_path):
    twice = pickle.EMPTY_TUPLE + b"".join(
        pickle.BINPUT + bytes([i]) + pickle.BINGET + bytes([i]) + pickle.TUPLE2 for i in range(60)
    )
    for content in (
        pickle.EMPTY_DICT + twice + pickle.NONE + pickle.SETITEM,
        pickle.EMPTY_DICT + pickle.MARK + twice + pickle.NONE + pickle.SETITEMS,
        b"ccollections\nOrderedDict\n" + pickle.EMPTY_LIST + twice + pickle.NONE + pickle.TUPLE2 + pickle.APPEND
        + pickle.TUPLE1 + pickle.REDUCE,
        pickle.MARK + pickle.NONE + b"ctorch\nFloatStorage\n" + twice + pickle.NONE + b"K\1" + pickle.TUPLE
        + pickle.BINPERSID,
    ):  # fmt: skip
        refused(open_checkpoint, archive(tmp_path / "x.pth", content + pickle.STOP), "x.pth: (found|could not)")


def test_compressed_archives_are_refused(tmp_path):
    path = archive(tmp_path / "x.pth", pickle.dumps("0" * 10**8, 2), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    refused(open_checkpoint, path, r"data\.pkl of 1\d+ bytes, at most")
    archive(path, pickle.dumps({"a": "0" * 100}, 2), compression=zipfile.ZIP_DEFLATED)
    refused(open_checkpoint, path, r"x/data\.pkl compressed")


@pytest.mark.parametrize(
    ("limit", "name"), [("LARGEST_PICKLE", "data.pkl of"), ("MOST_ENTRIES", "files in it, expected at most 50")]
)
def test_large_archives_are_refused(folder, monkeypatch, limit, name):
    monkeypatch.setattr(checkpoint, limit, 50)
    refused(load_model, folder, name)


def test_pickles_of_instructions_without_end(tmp_path):
    """16 MB of them took half a minute."""
    for content in (pickle.MARK * 1_100_000, pickle.EMPTY_LIST + pickle.TUPLE1 * 1_100_000):
        refused(open_checkpoint, archive(tmp_path / "x.pth", content + b"."), "more than 1000000 instructions")


@pytest.mark.parametrize(
    ("entry", "value"), [("spacing", [1000, 1000, 1000]), ("std", 1e-300), ("percentile_99_5", -996.99999999)]
)
def test_plans_that_leave_nothing_of_a_scan(tmp_path, whole, entry, value):
    text = json.loads((whole / "slim" / "model.json").read_text())
    (configuration,) = text["plans"]["configurations"].values()
    (configuration if entry == "spacing" else text["plans"]["foreground_intensity_properties_per_channel"]["0"])[
        entry
    ] = value
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    refused(load_model, tmp_path / "m", "found (spacing|intensities)")


def test_what_is_made_of_one_text_again_and_again_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_MADE", 10**5)
    text = pickle.BINUNICODE + struct.pack("<I", 10**4) + b"a" * 10**4 + pickle.BINPUT + b"\0"
    once = b"c_codecs\nencode\n" + pickle.BINGET + b"\0" + pickle.BINUNICODE + b"\6\0\0\0latin1" + pickle.TUPLE2
    content = pickle.EMPTY_LIST + text + pickle.APPEND + (once + pickle.REDUCE + pickle.APPEND) * 20 + pickle.STOP
    refused(open_checkpoint, archive(tmp_path / "x.pth", content), "grows without end")


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "count"),
    [
        (0, (10**12,), (0,), 4), (0, (2**32, 2**32), (0, 0), 4), (0, (2, 3), (3, 1), 4), (5, (1,), (1,), 4),
        (-1, (2,), (1,), 4), (0, (2,), (-1,), 4), (0, (3,), (2**62,), 4), (0, (-1,), (1,), 4),
        (0, (4,), (1,), 5), (0, (3,), (1,), 3),
        (0, (1,), (1,), -1), (0, (4, 1), (1,), 4), (0.0, (4,), (1,), 4), (0, [[4]], (1,), 4),
    ],
)  # fmt: skip
def test_tensors_that_are_not_in_the_file_are_refused(tmp_path, offset, shape, stride, count):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is storage else None

    class Fake:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, OrderedDict())

    storage = object()
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"network_weights": {"a": Fake()}})
    refused(open_checkpoint, archive(tmp_path / "x.pth", buffer.getvalue(), bytes(16)), "x.pth: (found|could not)")


@pytest.mark.parametrize("both", [True, False], ids=["exchanged", "one twice"])
def test_a_list_of_files_that_leads_to_others_is_refused(folder, both):
    """Two storages of equal size, whose places and checksums the archive's list has for each other."""
    path = folder / "fold_0" / "checkpoint_best.pth"
    load_model(folder)
    with zipfile.ZipFile(path) as file:
        entries = [entry for entry in file.infolist() if "/data/" in entry.filename]
        first, other = next(
            (a, b) for a, b in itertools.combinations(entries, 2) if a.file_size == b.file_size and a.CRC != b.CRC
        )
    content, start = bytearray(path.read_bytes()), file.start_dir
    for entry, leads_to in ((first, other), (other, first))[: 2 if both else 1]:
        at = content.index(entry.filename.encode(), start) - 46
        struct.pack_into("<I", content, at + 16, leads_to.CRC)
        struct.pack_into("<I", content, at + 42, leads_to.header_offset)
    path.write_bytes(content)
    refused(load_model, folder, "another file where the archive's list has .*/data/")


def test_a_storage_of_two_types_is_refused(tmp_path):
    """torch.save never writes it, and torch takes the first type for both."""
    types = {"HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16}
    torch.save({"network_weights": {n: torch.ones(7, dtype=t) for n, t in types.items()}}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as file:
        content = {name: file.read(name) for name in file.namelist()}
    pickled = next(name for name in content if name.endswith("data.pkl"))
    assert content[pickled].count(b"X\x01\x00\x00\x001") == 1
    content[pickled] = content[pickled].replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        for name, piece in content.items():
            file.writestr(name, piece)
    refused(open_checkpoint, tmp_path / "x.pth", "storage 0 of torch.float16 and of torch.bfloat16")


def test_weights_that_share_their_numbers_without_end_are_refused(folder):
    content = change(folder)
    one = content["network_weights"]["encoder.stages.2.blocks.0.conv2.conv.weight"]
    change(folder, network_weights=content["network_weights"] | {f"extra.{i}": one for i in range(100)})
    refused(load_model, folder, "found tensors that share their numbers")


@pytest.mark.parametrize(
    "shared",
    [
        lambda one, other: other,
        lambda one, other: other.flatten().as_strided(one.shape, one.stride(), 0),
        lambda one, other: one.flatten().as_strided(one.shape, (0, *one.stride()[1:])),
        lambda one, other: one.flatten().as_strided(one.shape, (1, *one.stride()[1:])),
    ],
    ids=["one tensor", "one storage", "expanded", "overlapping rows"],
)
def test_weights_of_two_layers_in_one_place_are_refused(folder, shared):
    weights = change(folder)["network_weights"]
    one, other = (f"encoder.stages.2.blocks.{conv}.conv.weight" for conv in ("0.conv2", "1.conv1"))
    weights = {name: weight for name, weight in weights.items() if "decoder.encoder" not in name}
    assert weights[one].shape == weights[other].shape
    change(folder, network_weights=weights)
    load_model(folder)
    change(folder, network_weights=weights | {one: shared(weights[one], weights[other])})
    refused(load_model, folder, "found tensors that share their numbers")


def test_more_second_names_than_there_can_be_are_not_compared(folder, monkeypatch):
    content = change(folder)
    name = "encoder.stages.2.blocks.0.conv2.conv.weight"
    first, second = content["network_weights"][name], content["network_weights"][name].clone()
    names = {f"encoder.{i}": first for i in range(1000)} | {f"decoder.encoder.{i}": second for i in range(1000)}
    change(folder, network_weights=content["network_weights"] | names)
    monkeypatch.setattr("umamba2.nets.unet._same", lambda *_: pytest.fail("compared"))
    refused(load_model, folder, "found tensors that share their numbers")


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(X\1\0\0\0atR.", b"ctorch\ndevice\nX\3\0\0\0cpu\x85R)R.", b"].", b"}}b", b"(dp0\n.",
        b"\x8cxcountR.", b"Nq\xffhh.", b"}K\1K\2s0.", b"cnumpy\ndtype\nX\1\0\0\0O\x85R.", b"N]a.", b"}]a.",
        b"}K\1]}bs.", b"}K\1cnumpy.core.multiarray\n_reconstruct\n)RNas.", b"]K\1K\2s.", b"ctorch\nFloatStorage\n}b.",
        b"ccollections\nOrderedDict\n}b.", b"", b".", b"0.", b"t.",
    ],
)  # fmt: skip
def test_pickles_that_are_no_checkpoints_are_refused(tmp_path, content):
    refused(open_checkpoint, archive(tmp_path / "x.pth", content), "x.pth: (found|could not)")


@pytest.mark.parametrize("kind", ["negated", "conjugated"])
def test_numbers_that_torch_would_change_are_refused(tmp_path, kind):
    numbers = torch.rand(3, dtype=torch.complex64 if kind == "conjugated" else torch.float32)
    torch.save({"a": numbers.conj() if kind == "conjugated" else torch._neg_view(numbers)}, tmp_path / "x.pth")
    refused(open_checkpoint, tmp_path / "x.pth", r"found a tensor with the property .*(neg|conj)")


def test_only_what_is_named_is_called(tmp_path):
    """A torch.device is a decorator too."""
    content = b"ctorch\ndevice\nX\3\0\0\0cpu\x85Rcnumpy\nndarray\n\x85R."
    refused(open_checkpoint, archive(tmp_path / "x.pth", content), "found a call of a device")


def test_archives_that_are_none_are_refused(tmp_path, folder):
    path = folder / "fold_0" / "checkpoint_best.pth"
    good = path.read_bytes()
    for number, content in enumerate((b"PK\x03\x04", good[:-30], good[100:], b"\0" * 512 + good, good + good[:1000])):
        path.write_bytes(content)
        if number < 4:
            refused(load_model, folder, "could not be read")
    place = good.index(b"network_weights")
    path.write_bytes(good[:place] + b"N" + good[place + 1 :])
    refused(load_model, folder, r"data\.pkl with another checksum")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}, 2))
        file.writestr("y/data.pkl", pickle.dumps({}, 2))
    refused(load_model, folder, r"2 entries data\.pkl")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}, 2))
        file.writestr("x/byteorder", "big")
    refused(load_model, folder, "another byte order")


def test_what_torch_writes_is_read_as_torch_reads_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(4, 6, generator=generator)
    content = {
        "kinds": [torch.zeros(3, dtype=d) for d in (torch.float64, torch.bfloat16, torch.half, torch.int8, torch.bool)],
        "views": (base, base[1:, ::2], base.T, base[0, 0], torch.empty(0, 3)),
        "parameter": torch.nn.Parameter(base + 1),
        "state": torch.nn.Linear(2, 3).state_dict(),
        "plain": {"a": [1, -5, 2**40, 2**70, 0.5, "é", None, True, b"raw"], 3: (), 0.5: ((), ("b",))},
        "device": torch.device("cuda", 1),
        "size": torch.Size([1, 2]),
        "numpy": [np.float64(0.5), np.float32(0.1), np.bool_(True), np.int64(-3), np.dtype(">f4").type(2)],
    }
    for protocol in (2, 3, 4):
        torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol)
        found = open_checkpoint(tmp_path / "x.pth").read()
        for ours, theirs in zip(found["kinds"] + list(found["views"]), content["kinds"] + list(content["views"])):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        assert torch.equal(found["parameter"], content["parameter"])
        assert all(torch.equal(found["state"][key], value) for key, value in content["state"].items())
        for key in ("plain", "device", "size", "numpy"):
            assert found[key] == content[key]
            assert [type(a) for a in found[key]] == [type(b) for b in content[key]] if key == "numpy" else True
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.array([1.5], ">f8"), np.zeros((0, 3))]
    torch.save({"arrays": arrays}, tmp_path / "x.pth")
    assert open_checkpoint(tmp_path / "x.pth")["arrays"][:3] == [array.tolist() for array in arrays[:3]]


@pytest.mark.parametrize("part", ["weight", "optimizer"])
def test_a_flipped_bit_is_found_where_it_counts(folder, tmp_path, part):
    """The state of the optimizer is as large as the weights, and nothing here uses it."""
    path = folder / "fold_0" / "checkpoint_best.pth"
    momentum = torch.full((7,), 1.5)
    weights = change(folder, optimizer_state={"state": {0: {"momentum_buffer": momentum}}})["network_weights"]
    content = path.read_bytes()
    sought = next(iter(weights.values())) if part == "weight" else momentum
    place = content.index(sought.numpy().tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    found = open_checkpoint(path)
    refused(lambda _: found.read(), path, "with another checksum than the archive states")
    if part == "weight":
        refused(load_model, folder, "with another checksum than the archive states")
    else:
        load_model(folder)


def test_a_flipped_bit_in_a_slim_model_is_found(tmp_path, whole):
    shutil.copytree(whole / "slim", tmp_path / "m")
    path = tmp_path / "m" / "fold_0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    refused(load_model, tmp_path / "m", r"fold_0\.safetensors: found the checksum \d+, expected \d+: another file")
    with zipfile.ZipFile(whole / "nnunet" / "fold_0" / "checkpoint_best.pth") as file:
        assert not file.testzip()  # the other layout has its own
    text = json.loads((tmp_path / "m" / "model.json").read_text())
    del text["crc32"]  # models that were written before there was one
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    load_model(tmp_path / "m")


def test_weights_of_another_model_are_found(tmp_path, whole):
    """Of the same architecture: nothing but the checksum tells them apart."""
    slim(make_model(tmp_path / "other", folds=(1,)), tmp_path / "slim")
    shutil.copytree(whole / "slim", tmp_path / "m")
    shutil.copyfile(tmp_path / "slim" / "fold_1.safetensors", tmp_path / "m" / "fold_0.safetensors")
    refused(load_model, tmp_path / "m", "found the checksum")


def test_entries_that_are_there_twice(tmp_path, folder):
    path = folder / "fold_0" / "checkpoint_best.pth"
    with zipfile.ZipFile(path, "a") as file:
        name = next(name for name in file.namelist() if name.endswith("data/0"))
        content = file.read(name)
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(name, content)
    refused(load_model, folder, r"data/0 2 times in it, expected each file once")


def test_lists_of_files_without_end_are_not_read(tmp_path, monkeypatch):
    """zipfile makes an object for each entry before anybody can count them."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(3000):
            file.writestr(f"x/data/{number}", b"")
    made = []
    whole = zipfile.ZipInfo.__init__
    monkeypatch.setattr(zipfile.ZipInfo, "__init__", lambda self, *a, **k: made.append(a) or whole(self, *a, **k))
    monkeypatch.setattr(zips, "LARGEST_LIST", 2**16)  # the list has some 170,000 bytes
    refused(open_checkpoint, path, "found a list of files of more than 65536 bytes")
    assert made == []
    monkeypatch.setattr(zips, "LARGEST_LIST", 2**18)
    refused(open_checkpoint, path, r"0 entries data\.pkl")
    assert len(made) == 3000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite(folder, kind, value):
    weights = {key: tensor.to(kind) for key, tensor in change(folder)["network_weights"].items()}
    change(folder, network_weights=weights)
    load_model(folder)
    last = list(weights)[-1]
    weights[last].view(-1)[-1] = value
    change(folder, network_weights=weights)
    refused(load_model, folder, f"found NaN or infinite numbers in {last}, expected finite weights")


@pytest.mark.parametrize("value", [1e300, -3.5e38])
def test_weights_beyond_fp32(folder, value):
    weights = {key: tensor.double() for key, tensor in change(folder)["network_weights"].items()}
    last = list(weights)[-1]
    weights[last].view(-1)[-1] = value
    change(folder, network_weights=weights)
    refused(load_model, folder, f"found NaN or infinite numbers in {last}, expected finite weights in fp32")
    with pytest.raises(InputError, match=rf"found NaN or infinite weights \({last}\)"):
        pretrained_weights(folder / "fold_0")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder."])
@pytest.mark.parametrize("last", [False, True])
def test_weights_that_are_stated_twice(folder, prefix, last):
    """Which of them counts would depend on their order."""
    weights = change(folder)["network_weights"]
    if prefix == "encoder.":  # as pretraining wraps a network
        name = "mamba_layer." + next(k for k in weights if k.startswith("mamba_layer.")).removeprefix("mamba_layer.")
        new = {f"encoder.{key}": value for key, value in weights.items()}
        twice = {name: weights[name] + 1}
    else:
        name, new = "decoder.seg_layers.0.weight", weights
        twice = {prefix + name: weights[name] + 1}
    change(folder, network_weights={**new, **twice} if last else {**twice, **new})
    refused(load_model, folder, f"found .*{name} and .*{name}, expected one tensor for {name}")


@pytest.mark.parametrize("of", ["decoder.encoder.", ".all_modules.0.", ".all_modules.1.", ".all_modules.2."])
@pytest.mark.parametrize("how", ["values", "shape", "type", "same", "NaN"])
def test_second_names_hold_the_same(folder, of, how):
    weights = change(folder)["network_weights"]
    if of == "decoder.encoder.":
        first = "encoder.stem.convs.0.norm.weight"
        alias = f"decoder.{first}"
    else:
        first = "encoder.stem.convs.0." + ("conv.weight" if ".0." in of else "norm.weight")
        alias = f"encoder.stem.convs.0{of}weight"
    value = weights[first]
    if how == "NaN":
        weights[first] = value = torch.full_like(value, float("nan"))
    others = {"values": value * 1.001, "shape": value[:-1].clone(), "type": value.half()}
    weights[alias] = others.get(how, value.clone())
    change(folder, network_weights=weights)
    if how == "same":
        load_model(folder).check()
    elif how == "NaN":
        refused(load_model, folder, f"NaN or infinite numbers in {first}")
    else:
        refused(load_model, folder, f"found {alias} with other numbers than {first}, expected two names of one tensor")


def test_large_weights_are_finite(folder):
    """Their sum is not."""
    weights = change(folder)["network_weights"]
    change(folder, network_weights={key: torch.full_like(value, 3e38) for key, value in weights.items()})
    load_model(folder)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_the_number_of_folds_is_bounded(tmp_path, whole):
    for number in range(40):
        os.makedirs(tmp_path / "many" / f"fold_{number}")
        (tmp_path / "many" / f"fold_{number}" / "checkpoint_best.pth").touch()
    refused(load_model, tmp_path / "many", "found 40 folds, expected at most 32")
    text = json.loads((whole / "slim" / "model.json").read_text())
    text["folds"] = {str(i): "fold_0.safetensors" for i in range(100_000)}
    write_file(tmp_path / "slim" / "model.json", json.dumps(text))
    refused(load_model, tmp_path / "slim", "found 100000 folds, expected at most 32")


@pytest.mark.parametrize("name", ["../../evil", "0/../../evil", "", "0 ", "é", "9" * 300])
def test_fold_names_cannot_lead_elsewhere(tmp_path, whole, name):
    text = json.loads((whole / "slim" / "model.json").read_text())
    write_file(tmp_path / "hostile" / "model.json", json.dumps({**text, "folds": {name: "fold_0.safetensors"}}))
    (tmp_path / "hostile" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    before = sorted(tmp_path.rglob("*"))
    refused(lambda place: slim(place, tmp_path / "out" / "deep"), tmp_path / "hostile", "found a fold named")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(tmp_path, whole, folder):
    os.mkfifo(tmp_path / "pipe.safetensors")
    text = json.loads((whole / "slim" / "model.json").read_text())
    write_file(tmp_path / "slim" / "model.json", json.dumps({**text, "folds": {"0": "pipe.safetensors"}}))
    os.mkfifo(tmp_path / "slim" / "pipe.safetensors")
    refused(load_model, tmp_path / "slim", r"pipe\.safetensors: found no regular file")
    content = change(folder)
    change(folder, init_args={**content["init_args"], "plans": None})
    (folder / "plans.json").unlink()
    os.mkfifo(folder / "plans.json")
    refused(load_model, folder, r"plans\.json: found no file")


def test_links_that_lead_to_themselves(tmp_path, whole):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(load_model, tmp_path / "loop", "loop: found a link that leads nowhere, expected a model folder")
    shutil.copytree(whole / "slim", tmp_path / "m")
    path = tmp_path / "m" / "fold_0.safetensors"
    path.unlink()
    path.symlink_to(path)
    refused(load_model, tmp_path / "m", "found a link that leads nowhere, expected the weights of fold 0")


def test_large_descriptions_are_refused(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(plain, "LARGEST_JSON", 1000)
    refused(load_model, whole / "slim", r"model\.json: found no file or one of more than 1000 bytes")


@pytest.mark.parametrize(("classes", "good"), [(0, False), (2, True), (256, True), (257, False), (1000, False)])
def test_classes_that_label_maps_cannot_hold(tmp_path, whole, classes, good):
    folder = make_model(tmp_path / "m", classes=max(classes, 2))
    if classes < 2:
        weights = change(folder)["network_weights"]
        change(folder, network_weights={k: v[:0] if "seg_layers" in k else v for k, v in weights.items()})
    for read in (load_model, describe):
        if good:
            read(folder)
        else:
            refused(read, folder, f"found {classes} classes, expected at most 256")


def test_a_network_that_segments_nothing(tmp_path):
    """As pretraining leaves it: its weights can be read, and that is all."""
    folder = make_model(tmp_path / "m", classes=1)
    assert load_model(folder).num_classes == 1
    refused(describe, folder, "found a network of one class")
    refused(lambda place: slim(place, tmp_path / "s"), folder, "found a network of one class")
    refused(lambda place: load_model(place).network(), folder, "found a network of one class")
    content = change(folder)
    classes = {"background": 0, "tooth": 1, "pulp": 2}  # of the dataset that it was pretrained on
    change(folder, init_args={**content["init_args"], "dataset_json": {"labels": classes}})
    assert load_model(folder).num_classes == 1
    refused(describe, folder, "found a network of one class")


def test_plans_of_another_network(tmp_path, whole):
    """What `info` describes and `slim` copies can be used, every fold of it."""
    folder = make_model(tmp_path / "m", folds=(0, 1))
    labels = {"background": 0, **{f"class {i}": i for i in range(1, 5)}}
    other = make_model(tmp_path / "other", classes=6, folds=(1,), description={"labels": labels})
    (other / "fold_1").replace(tmp_path / "fold_1")
    shutil.rmtree(folder / "fold_1")
    (tmp_path / "fold_1").replace(folder / "fold_1")
    for read in (describe, lambda place: slim(place, tmp_path / "out")):
        refused(read, folder, "fold 1 does not fit its own plans")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"spacing": (0.6, 0.6, 0.6)}, r"spacing \(0.6, 0.6, 0.6\), expected \(0.3, 0.3, 0.3\)"),
        ({"transpose": (1, 0, 2)}, "transpose"),
        ({"normalisation": "HarmonisedCTNormalization"}, "harmonise True, expected False"),
        ({"patch": (12, 32, 32)}, "patch_size"),
        ({"description": {"labels": {"background": 0, "class 2": 1, "class 1": 2}}}, "labels"),
        ({"description": {"orientation": "RAS"}}, "orientation RAS, expected None"),
        ({"description": {"fix_numbers": True}}, "fix_numbers True, expected None"),
        ({"mirror_axes": (0, 1)}, r"mirror axes \(0, 1\), expected \(\)"),
    ],
)
def test_folds_of_several_trainings(folder, tmp_path, options, found):
    """All would get what the first one's plans make of a scan, and their classes would be taken for its classes."""
    make_model(tmp_path / "other", folds=(1,), **options)
    (tmp_path / "other" / "fold_1").rename(folder / "fold_1")
    refused(load_model, folder, f"fold_1.*found {found}.* as in fold 0: folds of one training")
    assert list(load_model(folder, 1).folds) == ["1"]


def test_a_fold_that_states_no_plans_has_those_of_the_first(tmp_path):
    folder = make_model(tmp_path / "m", folds=(0, 1), files=False)
    path = folder / "fold_1" / "checkpoint_best.pth"
    torch.save({**torch.load(path, weights_only=False), "init_args": None}, path)
    assert list(load_model(folder).folds) == ["0", "1"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"background": 0, "a": 1, "b": 1}, "the labels a and b for one class, 1"),
        ({"background": 0, "a": 7}, r"class 7 \(a\) of a network of 5 classes"),
        ({"background": 0, "a": 5}, r"class 5 \(a\) of a network of 5 classes"),
        ({"tooth": 0, "background": 4}, "class 4 for the background, expected 0"),
        ({"background": 0, "a": -1}, r"class -1 \(a\) of a network of 5 classes"),
        ({"background": 0, "mouth": [1, 2], "a": 2}, "mouth made of several labels"),
        ({"background": 0, "c": 3, "ignore": 5}, ""),
        ({"background": 0, "ignore": 3, "c": 4}, r"class 3 \(ignore\) of a network of 5 classes, expected 5 for it"),
        ({"background": 0, "c": 3, "ignore": 6}, r"class 6 \(ignore\) of a network of 5 classes, expected 5 for it"),
        ({"background": 0, "c": True}, r"class True \(c\), expected a number"),
        ({"background": 0, "a": [1], "b": 2.5, "c": "d"}, ""),
        ([3], ""),
        (None, ""),
    ],
)
def test_names_of_classes(tmp_path, labels, found):
    folder = make_model(tmp_path / "m", description={"labels": labels})
    if found:
        refused(load_model, folder, f"found {found}")
    else:
        assert describe(folder)


TASKS = {
    "toothfairy3-multiclass": "umamba2.nets.UMamba2",
    "toothfairy3-interactive": "umamba2.nets.UMamba2Click",
    "stsr": "umamba2.nets.UMamba2",
}


def spelt(name, how):
    return {"as": name, "upper": name.upper(), "title": name.title().replace(" ", "_"), "dash": name.replace(" ", "-")}[
        how
    ]


@pytest.mark.parametrize("how", ["as", "upper", "title", "dash"])
@pytest.mark.parametrize(("task", "one", "other"), [
    ("toothfairy3-multiclass", 1, 2),
    ("toothfairy3-multiclass", 3, 4),
    ("toothfairy3-multiclass", 11, 19),
    ("toothfairy3-multiclass", 0, 46),
    ("toothfairy3-interactive", 1, 2),
    ("stsr", 1, 2),
])  # fmt: skip
def test_names_at_the_numbers_of_others(tmp_path, task, one, other, how):
    """Refused where a challenge is stated or asked for; no challenge is recognised by them."""
    challenge = CHALLENGES[task]
    names = {0: "background"} | {s.training: spelt(s.name, how) for s in challenge.structures}
    labels = {name: number for number, name in names.items()}
    options = {"network": TASKS[task], "classes": challenge.num_classes, "dataset_name": challenge.dataset_name}
    good = make_model(tmp_path / "good", description={"labels": labels}, **options)
    assert load_model(good).challenge == task
    labels = {**labels, names[one]: other, names[other]: one}
    refused(load_model, make_model(
        tmp_path / "stated", description={"labels": labels, "challenge": task}, **options
    ), "found class")  # fmt: skip
    bad = make_model(tmp_path / "bad", description={"labels": labels}, **options)
    if one:  # the background at another number is no model's
        assert load_model(bad).challenge is None
        assert umamba2.load(bad, challenge="none", device="cpu").challenge is None
        expected = f"found class .* named .*, expected .*, as it is in {task} .correct its labels"
        refused(lambda folder: umamba2.load(folder, challenge=task, device="cpu"), bad, expected)


@pytest.mark.parametrize("labels", [{"background": 0, "crown": 2, "other": 1}, {"background": 0, "lower jawbone": 1}])
def test_structures_that_a_challenge_does_not_have(tmp_path, labels):
    description = {"labels": labels, "challenge": "toothfairy3-interactive"}
    folder = make_model(tmp_path / "m", "umamba2.nets.UMamba2Click", 3, description=description)
    refused(load_model, folder, "found class [12] named (crown|lower jawbone), expected (left|right) inferior")


def test_names_of_nobody_here_are_taken(tmp_path):
    labels = {"background": 0, "IAC left": 1, "IAC right": 2}
    description = {"labels": labels, "challenge": "toothfairy3-interactive"}
    model = load_model(make_model(tmp_path / "m", "umamba2.nets.UMamba2Click", 3, description=description))
    assert model.labels == labels


@pytest.mark.parametrize(
    ("mean", "good"), [(-997.0, True), (3558.0, True), (-998.0, False), (3559.0, False)]
)  # fmt: skip
def test_a_mean_outside_of_the_percentiles(tmp_path, whole, mean, good):
    text = json.loads((whole / "slim" / "model.json").read_text())
    text["plans"]["foreground_intensity_properties_per_channel"]["0"]["mean"] = mean
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    if good:
        load_model(tmp_path / "m")
    else:
        refused(load_model, tmp_path / "m", "found intensities .*, expected a mean between the percentiles")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"folds": {"0": "fold_0.safetensors", "1": "fold_0.safetensors"}, "crc32": None}, "for the folds 0 and 1"),
        ({"folds": {"0": "fold_0.safetensors", "1": "x/fold_0.safetensors"}, "crc32": None}, "for the folds 0 and 1"),
        ({"crc32": {"0": None, "1": 5}}, "found crc32 for 0, 1, expected one for each of the folds 0$"),
        ({"crc32": {"1": 5}}, "found crc32 for 1, expected one for each of the folds 0$"),
        ({"folds": {"0": "fold_0.safetensors", "1": "b.safetensors"}}, "found crc32 for 0, .* folds 0, 1$"),
        ({"crc32": None}, ""),
        ({"crc32": {}}, ""),
    ],
)
def test_folds_and_checksums_that_do_not_fit(tmp_path, whole, change, found):
    text = json.loads((whole / "slim" / "model.json").read_text())
    own = text["crc32"]["0"]
    text |= change
    if text["crc32"] and "0" in text["crc32"]:
        text["crc32"]["0"] = own
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    for name in ("fold_0", "b"):
        (tmp_path / "m" / f"{name}.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    if found:
        refused(load_model, tmp_path / "m", found)
    else:
        load_model(tmp_path / "m")


def test_names_of_files_that_are_too_long(tmp_path, whole):
    text = json.loads((whole / "slim" / "model.json").read_text())
    text["folds"] = {"0": "a" * 300 + ".safetensors"}
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    refused(load_model, tmp_path / "m", "found no such file, expected the weights of fold 0")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *[("configurations", value) for value in (5, None, [], "3d_umamba", ["3d_umamba"], {"3d_umamba": 3})],
        *[("inherits_from", value) for value in ([], ["3d_fullres"], {}, {"a": 1}, 5, True, "3d_umamba")],
    ],
)
def test_plans_with_other_values_than_names(folder, whole, tmp_path, entry, value):
    content = change(folder)["init_args"]
    plans = content["plans"]
    (plans if entry == "configurations" else plans["configurations"]["3d_umamba"])[entry] = value
    change(folder, init_args=content)
    refused(load_model, folder, r"checkpoint_best\.pth: found configuration .* missing or inheriting from itself")
    text = json.loads((whole / "slim" / "model.json").read_text())
    slim_plans = text["plans"]
    (slim_plans if entry == "configurations" else slim_plans["configurations"]["3d_umamba"])[entry] = value
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    refused(load_model, tmp_path / "m", "found configuration .* missing or inheriting from itself")


@pytest.mark.parametrize(
    ("entry", "value", "found"),
    [
        ("patch_size", "888", "'888' in place of a list"),
        ("spacing", "123", "'123' in place of a list"),
        ("spacing", {"1": 0, "2": 0, "3": 0}, "in place of a list"),
        ("transpose_forward", "012", "'012' in place of a list"),
        ("patch_size", [4096] * 3, "patch_size"),
        ("patch_size", [2, 4, 4], r"patch_size \(2, 4, 4\), expected three sizes of 4 to 4096"),
        ("patch_size", [4, 32, 16], r"patch_size \(4, 32, 16\), expected 4096 to 67108864 voxels"),
        ("patch_size", [4096, 4096, 16], r"patch_size \(4096, 4096, 16\), expected 4096 to 67108864 voxels"),
        ("patch_size", [12, 32, 16.5], "16.5 in place of a whole number"),
        ("patch_size", [12, 32, float("nan")], "nan in place of a whole number"),
        ("transpose_forward", [0, 1, 2.5], "2.5 in place of a whole number"),
        ("resampling_fn_data_kwargs", {"force_separate_z": "maybe"}, "force_separate_z maybe"),
        ("resampling_fn_data_kwargs", {"separate_z_anisotropy_threshold": 0.5}, "separate_z_anisotropy_threshold 0.5"),
        (
            "resampling_fn_data_kwargs",
            {"separate_z_anisotropy_threshold": float("nan")},
            "separate_z_anisotropy_threshold nan",
        ),
        # What nnU-Net would do otherwise than it is done here.
        ("resampling_fn_data_kwargs", {"mode": "nearest"}, "resampling_fn_data with mode nearest, expected linear"),
        ("resampling_fn_data_kwargs", {"aniso_axis_mode": "linear"}, "with aniso_axis_mode linear, expected nearest"),
        ("resampling_fn_probabilities_kwargs", {"is_seg": True}, "_probabilities with is_seg True, expected False"),
        (
            "resampling_fn_probabilities_kwargs",
            {"force_separate_z": True},
            "'force_separate_z': True.* as for the data",
        ),
        (
            "resampling_fn_probabilities_kwargs",
            {"force_separate_z": False, "separate_z_anisotropy_threshold": 5},
            "'separate_z_anisotropy_threshold': 5.* as for the data",
        ),
        ("transpose_backward", [0, 2, 1], r"transpose_backward \[0, 2, 1\], expected \[0, 1, 2\], the inverse"),
        ("transpose_backward", "012", r"transpose_backward 012, expected \[0, 1, 2\]"),
        ("preprocessor_name", "OurPreprocessor", "preprocessor_name OurPreprocessor, expected DefaultPreprocessor"),
        ("label_manager", "OurLabels", "label_manager OurLabels, expected LabelManager"),
        ("previous_stage", "3d_lowres", "previous_stage 3d_lowres, expected none"),
    ],
)
def test_plans_that_read_like_others(tmp_path, whole, entry, value, found):
    text = json.loads((whole / "slim" / "model.json").read_text())
    (configuration,) = text["plans"]["configurations"].values()
    of_all = entry.startswith("transpose") or entry == "label_manager"
    (text["plans"] if of_all else configuration)[entry] = value
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    refused(load_model, tmp_path / "m", f"found .*{found}")


@pytest.mark.parametrize("place", ["channels", "init_args", "labels", "configurations"])
@pytest.mark.parametrize("last", [False, True])
def test_keys_that_are_the_same_text(folder, place, last):
    """A pickle tells 0 from "0", plans do not."""
    content = change(folder)["init_args"]
    plans, key = content["plans"], 0 if place in ("channels", "labels") else 0.5
    found = {
        "channels": plans["foreground_intensity_properties_per_channel"],
        "init_args": content,
        "labels": content["dataset_json"]["labels"],
        "configurations": plans["configurations"],
    }[place]
    kept = found.get("0")
    found.pop("0", None)
    found.update({str(key): kept, key: kept} if last else {key: kept, str(key): kept})
    change(folder, init_args=content)
    refused(load_model, folder, rf"checkpoint_best\.pth: found the keys .*{key}.*, expected each once as a text")


def files_of(whole, target, layout):
    shutil.copytree(whole / layout, target)
    return target, next(path for path in target.rglob("*") if path.suffix in (".pth", ".safetensors"))


def damage(path, how):
    """What happens to a file while others use it."""
    if how == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "longer":
        with open(path, "ab") as file:
            file.write(b"more")
    elif how == "anew":
        with open(path, "r+b") as file:
            file.write(bytes(path.stat().st_size))
    elif how == "replaced":
        write_file(path, b"another")
    else:
        path.unlink()


HOW = ["cut off", "longer", "anew", "replaced", "removed"]


@pytest.mark.parametrize("layout", ["nnunet", "slim"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", HOW)
def test_a_file_that_is_written_anew_changes_no_model_in_use(tmp_path, whole, layout, dtype, how):
    """Training writes its checkpoint in place, while others predict with it: mapped numbers changed or ended it."""
    model, path = files_of(whole, tmp_path / "m", layout)
    loaded = load_model(model)
    damage(path, how)
    loaded.load_weights(net := loaded.network(), "0", dtype)
    load_model(whole / layout).load_weights(same := loaded.network(), "0", dtype)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("layout", ["nnunet", "slim"])
@pytest.mark.parametrize("how", [None, "touched", *HOW])
def test_weights_that_were_let_go_of_are_read_again_if_they_are_the_same(tmp_path, whole, layout, how):
    model, path = files_of(whole, tmp_path / "m", layout)
    loaded = load_model(model)
    runner = Runner(loaded, torch.device("cpu"), torch.bfloat16, ())
    assert all(value.is_meta for value in loaded.folds["0"].values())
    if how is None:
        again = runner._in_fp32().nets["0"].state_dict()
        expected = Runner(load_model(whole / layout), torch.device("cpu"), torch.float32, ()).nets["0"].state_dict()
        assert all(torch.equal(value, again[name]) for name, value in expected.items())
        return
    if how == "touched":
        os.utime(path, (0, 0))
    else:
        damage(path, how)
    with pytest.raises(ModelError, match=re.escape(path.name)):
        runner._in_fp32()


@pytest.mark.parametrize(
    ("layout", "which"), [("slim", 1), ("no checksum", 1), ("nnunet", 1), ("nnunet", 3), ("nnunet", 20)]
)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_is_written_anew_while_it_is_read(tmp_path, whole, monkeypatch, layout, how, when, which):
    """Before or after one of its pieces: one line, or what it was."""
    model, path = files_of(whole, tmp_path / "m", "slim" if layout == "no checksum" else layout)
    if layout == "no checksum":
        text = json.loads((model / "model.json").read_text())
        write_file(model / "model.json", json.dumps({**text, "crc32": {}}))
    calls, fill = [], checkpoint.fill

    def damaging(*arguments):
        calls.append(1)
        if len(calls) == which and when == "before":
            damage(path, how)
        found = fill(*arguments)
        if len(calls) == which and when == "after":
            damage(path, how)
        return found

    monkeypatch.setattr(checkpoint, "fill", damaging)
    monkeypatch.setattr(weights, "fill", damaging)
    loaded = read_or_refused(load_model, model)
    assert len(calls) >= which
    assert loaded is None or how in ("replaced", "removed")
    if loaded:
        same = load_model(whole / "slim").folds["0"]
        assert all(torch.equal(value, same[name]) for name, value in loaded.folds["0"].items())


@pytest.mark.parametrize("eps", [float("nan"), -1.0, 0, float("inf"), 10**400, "1e-5", None, [1e-5]])
def test_norms_that_divide_by_nothing(tmp_path, whole, eps):
    text = json.loads((whole / "slim" / "model.json").read_text())
    (configuration,) = text["plans"]["configurations"].values()
    configuration["architecture"]["arch_kwargs"]["norm_op_kwargs"] = {"eps": eps, "affine": True}
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    refused(describe, tmp_path / "m", r"norm_op_kwargs eps: found .*, expected a number between 0 and 1")


def test_entries_that_say_they_are_encrypted(folder):
    path = folder / "fold_0" / "checkpoint_best.pth"
    content = path.read_bytes()
    start = content.index(b"PK\1\2") + 8
    path.write_bytes(content[:start] + bytes([content[start] | 1]) + content[start + 1 :])
    refused(load_model, folder, "encrypted, torch.save never does that")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("norm_op_kwargs", {"eps": 1e-5, "affine": True, "track_running_stats": True}),
        ("conv_bias", "false"), ("conv_bias", 1), ("conv_bias", None), ("conv_bias", [False]),
        ("kernel_sizes", [[3, 3, 3], [3, 3, 3], [2, 3, 3]]), ("kernel_sizes", 4), ("kernel_sizes", True),
        ("n_stages", True), ("n_blocks_per_stage", [True, 2, 2]), ("n_conv_per_stage_decoder", True),
        ("features_per_stage", [True, 16, 40]), ("strides", [[True, 1, 1], [2, 2, 2], [1, 2, 2]]),
    ],
)  # fmt: skip
def test_architectures_that_are_none(tmp_path, whole, entry, value):
    """Said when the model is read, and not where a scan is predicted."""
    text = json.loads((whole / "slim" / "model.json").read_text())
    (configuration,) = text["plans"]["configurations"].values()
    configuration["architecture"]["arch_kwargs"][entry] = value
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    refused(describe, tmp_path / "m", f"{entry}( [a-z_]+)?: found .*, expected")


@pytest.mark.parametrize(
    "patch",
    [[True, 32, 16], [12, 32], [12, 32, 0], [12, 32, float("nan")], [12, 32, float("inf")], "123", None, [0.5] * 3],
)  # fmt: skip
def test_patches_that_clicks_cannot_refer_to(tmp_path, patch):
    folder = make_model(tmp_path / "m", "umamba2.nets.UMamba2Click", 3)
    content = change(folder)["init_args"]
    content["plans"]["configurations"]["3d_umamba"]["architecture"]["arch_kwargs"]["patch_size"] = patch
    change(folder, init_args=content)
    refused(describe, folder, "patch_size: found .* for the clicks, expected the patch")


def test_names_cannot_look_like_lines_of_info(tmp_path):
    labels = {"background": 0, "a\nmirror axes  all": 1, "b": 2, "c": 3, "d": 4}
    lines = describe(make_model(tmp_path / "m", description={"labels": labels})).splitlines()
    assert sum(line.startswith("mirror axes") for line in lines) == 1


def twice(text, key):
    """JSON text in which an object has a key twice, with another value each time."""
    assert text.count(f'"{key}":') >= 1
    return text.replace(f'"{key}":', f'"{key}": "another", "{key}":', 1)


@pytest.mark.parametrize("key", ["folds", "crc32", "dataset", "labels", "patch_size", "spacing", "0"])
def test_what_model_json_says_twice(tmp_path, whole, key):
    """Of two values programs take the first or the last."""
    text = twice((whole / "slim" / "model.json").read_text(), key)
    write_file(tmp_path / "m" / "model.json", text)
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    with pytest.raises(InputError, match=rf"m/model\.json: found no readable JSON \(it has '{key}' twice\), expected"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(("name", "key"), [("plans", "spacing"), ("dataset", "labels"), ("dataset", "class 1")])
def test_what_plans_and_descriptions_say_twice(folder, name, key):
    content = change(folder)
    entry = "plans" if name == "plans" else "dataset_json"
    change(folder, init_args={**content["init_args"], entry: None})
    load_model(folder)
    path = folder / f"{name}.json"
    path.write_text(twice(path.read_text(), key))
    with pytest.raises(InputError, match=rf"{name}\.json: found no readable JSON \(it has '{key}' twice\), expected"):
        load_model(folder)


def test_gigabytes_of_nothing_are_not_summed_up(tmp_path, whole, monkeypatch):
    """Files of zeros that take no room on a disk."""
    text = json.loads((whole / "slim" / "model.json").read_text())
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    path = tmp_path / "m" / "fold_0.safetensors"
    for start in (b"", (whole / "slim" / "fold_0.safetensors").read_bytes()):
        path.write_bytes(start)
        os.truncate(path, 10**10)
        monkeypatch.setattr(weights, "fill", lambda *_: pytest.fail("its bytes were looked at"))
        refused(load_model, tmp_path / "m", r"fold_0\.safetensors: could not be read \(.*, expected a safetensors file")


@pytest.mark.parametrize("layout", ["nnunet", "slim"])
def test_more_numbers_than_there_is_memory(whole, monkeypatch, layout):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    refused(load_model, whole / layout, r"could not be read \(\d+ bytes of numbers, more than there is free memory\)")


# --- anything at all --------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths_in(value, prefix=()):
    """The way to every entry of nested objects and lists."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*prefix, key)
        yield from paths_in(inner, (*prefix, key))


@fuzzed(60)
@given(data=st.data())
def test_any_plans_give_a_network_or_one_line(tmp_path, whole, data):
    text = json.loads((whole / "slim" / "model.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(list(paths_in(text))))
        place = text
        for key in way:
            place = place[key]
        place[last] = data.draw(VALUES)
    write_file(tmp_path / "m" / "model.json", json.dumps(text))
    (tmp_path / "m" / "fold_0.safetensors").unlink(missing_ok=True)
    (tmp_path / "m" / "fold_0.safetensors").symlink_to(whole / "slim" / "fold_0.safetensors")
    model = read_or_refused(load_model, tmp_path / "m")
    if model is not None:
        described = read_or_refused(describe, tmp_path / "m")
        fits = read_or_refused(lambda _: model.load_weights(model.network(), "0") or True, tmp_path / "m")
        assert bool(described) == bool(fits)


@fuzzed(60)
@given(data=st.data())
def test_any_entries_of_a_checkpoint_give_a_network_or_one_line(folder, data):
    content = {**torch.load(folder / "fold_0" / "checkpoint_best.pth", weights_only=False)}
    kept = ("init_args", "trainer_name", "inference_allowed_mirroring_axes")
    text = json.loads(json.dumps({key: content[key] for key in kept}))
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(list(paths_in(text))))
        place = text
        for key in way:
            place = place[key]
        place[last] = data.draw(VALUES)
    torch.save({**content, **text}, folder / "fold_1.pth")
    (folder / "fold_1").mkdir(exist_ok=True)
    (folder / "fold_1.pth").replace(folder / "fold_1" / "checkpoint_best.pth")
    model = read_or_refused(lambda place: load_model(place, 1), folder)
    if model is not None:
        read_or_refused(lambda _: model.check(), folder)


HEADERS = st.dictionaries(
    st.sampled_from(["encoder.stem.convs.0.conv.weight", "decoder.seg_layers.0.weight", "__metadata__"]) | st.text(),
    VALUES
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "U8", "?"]),
            "shape": st.lists(st.integers(0, 5) | st.sampled_from([2**31, 2**63, -1]), max_size=5),
            "data_offsets": st.lists(st.integers(0, 64) | st.just(2**64), min_size=2, max_size=2),
        }
    ),
    max_size=3,
)


def stated(kind="F32", shape=(2,), place=(0, 8)):
    return {"dtype": kind, "shape": shape, "data_offsets": place}


@pytest.mark.parametrize(
    ("header", "content", "found"),
    [
        ({"a": stated(), "b": stated(place=(4, 12))}, 12, "b from byte 4 of the numbers, expected 8"),
        ({"a": stated(), "b": stated(place=(12, 20))}, 20, "b from byte 12 of the numbers, expected 8"),
        ({"a": stated(), "b": stated()}, 8, "b from byte 0 of the numbers, expected 8"),
        ({"a": stated(place=(8, 0))}, 8, "in -8 bytes"),
        ({"a": stated(shape=(3,))}, 8, r"a of shape \[3\] and F32 in 8 bytes"),
        ({"a": stated("F16")}, 8, r"a of shape \[2\] and F16 in 8 bytes"),
        ({"a": stated()}, 4, "4 bytes of numbers, 8 stated"),
        ({"a": stated()}, 12, "12 bytes of numbers, 8 stated"),
        ({"a": stated("U64", (1,))}, 8, "a of 'U64', which is none of F64"),
        ({"a": stated("F4", (4,))}, 8, "a of 'F4', which is none of F64"),
        ({"a": stated(shape=(-2,), place=(0, -8))}, 8, r"a of shape \[-2\] at \[0, -8\]"),
        ({"a": stated(shape=(True, 2))}, 8, r"a of shape \[True, 2\]"),
        ({"a": stated(shape=(2.0,))}, 8, r"a of shape \[2.0\]"),
        ({"a": stated(shape=(10**400, 0), place=(0, 0))}, 0, "a of shape"),
        ({"a": stated(shape=[1] * 30 + [2])}, 8, "a of shape"),
        ({"a": [1]}, 8, ""), ({"a": {}}, 8, ""), ([], 0, ""), (None, 0, ""), ({"a": stated([])}, 8, ""),
        ('{"a": 1, "a": 1}', 0, "it has 'a' twice"), ("[" * 10**5, 0, ""), ("{" + " " * 99, 0, ""), ("\ufeff{}", 0, ""),
    ],
)  # fmt: skip
def test_safetensors_that_contradict_themselves(tmp_path, header, content, found):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(content))
    refused(read_weights, path, rf"could not be read \(.*{found}.*\), expected a safetensors file")


SHAPES = st.lists(st.integers(0, 4), max_size=4)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@fuzzed(60)
@given(stated=st.dictionaries(st.text(max_size=5), st.tuples(st.sampled_from(TYPES), SHAPES), min_size=1, max_size=8))
def test_any_safetensors_are_read_as_their_own_library_reads_them(tmp_path, stated):
    content = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in stated.items() if name != "__metadata__"}
    safetensors.torch.save_file(content, tmp_path / "x.safetensors", {"format": "pt"})
    found, crc32 = weights._read_safetensors(tmp_path / "x.safetensors")
    theirs = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert crc32 == weights.checksum(tmp_path / "x.safetensors")
    assert {name: (value.dtype, value.double().tolist()) for name, value in found.items()} == {
        name: (value.dtype, value.double().tolist()) for name, value in theirs.items()
    }


@fuzzed(60)
@given(header=HEADERS, size=st.none() | st.integers(0, 2**64 - 1), content=st.binary(max_size=64))
def test_any_safetensors_give_weights_or_one_line(tmp_path, header, size, content):
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + content)
    found = read_or_refused(read_weights, path)
    assert found is None or all(isinstance(value, torch.Tensor) for value in found.values())


@fuzzed(60)
@given(data=st.data())
def test_any_pickle_gives_a_checkpoint_or_one_line(tmp_path, whole, data):
    with zipfile.ZipFile(whole / "nnunet" / "fold_0" / "checkpoint_best.pth") as file:
        entries = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    content = bytearray(entries["data.pkl"])
    instructions = st.sampled_from([pickle.REDUCE, pickle.BUILD, pickle.TUPLE2, pickle.MARK, b"q\1h\1"])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3) | instructions)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        for name, stored in {**entries, "data.pkl": bytes(content)}.items():
            file.writestr(f"x/{name}", stored)
    found = read_or_refused(open_checkpoint, tmp_path / "x.pth")
    if found is not None:
        read_or_refused(lambda path: weights.bare_weights(path, found), tmp_path / "x.pth")


@fuzzed(60)
@given(data=st.data())
def test_any_damage_to_a_file_gives_weights_or_one_line(tmp_path, whole, data):
    source = data.draw(st.sampled_from(["slim/fold_0.safetensors", "nnunet/fold_0/checkpoint_best.pth"]))
    content = bytearray((whole / source).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        # Half of it where the structure is.
        start = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 20_000))
        content[start : start + data.draw(st.integers(1, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path / source.rsplit("/", 1)[-1]
    path.write_bytes(content)
    read_or_refused(read_weights, path)


def test_large_headers_are_refused(whole, monkeypatch):
    monkeypatch.setattr(weights, "LARGEST_HEADER", 100)
    refused(load_model, whole / "slim", "a header of .* bytes, at most 100")
