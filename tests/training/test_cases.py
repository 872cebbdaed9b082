"""Preprocessed cases as a training reads them: whole, of this preprocessing, and as data of which nothing is run."""

import os
import pickle
import shutil

import numpy as np
import pytest

pytest.importorskip("nnunetv2")

import blosc2
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from toy_training import DATASET, environment, make_trainer, started

from umamba2.errors import InputError
from umamba2.training.loading import Cases
from umamba2.training.preprocess import record_of, results_of
from umamba2.training.properties import read_properties
from umamba2.training.provenance import leave_record

TRAINER = "UMamba2Trainer"
pytestmark = pytest.mark.usefixtures("no_plots")


def test_a_preprocessed_case_that_is_cut_off_is_named(stsr, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    folder = root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres"
    whole = (folder / "case_2.pkl").read_bytes()
    for cut in (whole[:-1], whole[:100], b""):
        (folder / "case_2.pkl").write_bytes(cut)
        with environment(root, tmp_path), pytest.raises(InputError, match=r"case_2.pkl: found it cut off, expected it"):
            make_trainer(TRAINER).run_training()
    (folder / "case_2.pkl").write_bytes(whole[:50] + b".")  # which ends as a pickle does
    with environment(root, tmp_path):
        cases = Cases(started(make_trainer(TRAINER)).get_tr_and_val_datasets()[0], 2, labelled=True)
    with pytest.raises(InputError, match=r"fullres: found case_2 damaged \("):
        cases.load_case("case_2")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_properties_are_read_as_data(stsr, tmp_path, protocol):
    """Of a pickle, which can name anything to be called, numbers, texts and arrays are read, by nnU-Net itself too."""
    folder = tmp_path / "cases"
    shutil.copytree(stsr / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres", folder)
    dataset = nnUNetDatasetBlosc2(str(folder))
    properties = dataset.load_case("case_2")[3]
    many = {"x": np.float32(0.1), "class_locations": {1: np.arange(12).reshape(4, 3), 2: np.asfortranarray(np.eye(3))}}
    properties |= many

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (folder / "case_2.pkl").write_bytes(pickle.dumps(properties, protocol))
    assert repr(dataset.load_case("case_2")[3]) == repr(properties)
    (folder / "case_2.pkl").write_bytes(pickle.dumps(properties | {"y": Harmful()}, protocol))
    with pytest.raises(ValueError, match=r"the Python object .*\.mkdir in case_2.pkl"):
        dataset.load_case("case_2")
    with pytest.raises(InputError, match=r"found case_2 damaged \(the Python object .*\.mkdir in case_2.pkl\)"):
        Cases(dataset, 2, labelled=True).load_case("case_2")
    assert not (tmp_path / "run").exists()


# An array in a pickle up to its type, whose name and state follow.
ARRAY = b"""\x80\4}X\1\0\0\0xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1K\1\x85cnumpy
dtype\nX\2\0\0\0%b\x85R"""
HIDING = b"(K\3X\1\0\0\0|NNNK\10K\10K\0tb"  # the state of a type that says that it has no objects
ADDRESS = b"\x89C\10AAAAAAAAtbs."


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pickle.dumps({"x": np.array([None, "a"], object)}), "type 'O8'"),
        (ARRAY % b"O8" + ADDRESS, "type 'O8'"),  # whose address would be the file's own bytes
        (ARRAY % b"O8" + HIDING + ADDRESS, "type 'O8'"),
        (ARRAY % b"O8" + b"\x89]tbs.", "type 'O8'"),
        (b"\x80\4}(r\xff\xff\xff\x7fK\1K\2u.", ""),  # a place in the memo for which Python takes 34 GB
        (pickle.dumps(("a", 1)), "a tuple in case_2.pkl"),
        (pickle.dumps([]), "a list in case_2.pkl"),
        (b"\x80\4N.", "a NoneType"),
    ],
)
def test_properties_that_are_none_are_refused(stsr, tmp_path, content, problem):
    folder = tmp_path / "cases"
    shutil.copytree(stsr / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres", folder)
    (folder / "case_2.pkl").write_bytes(content)
    with pytest.raises(InputError, match=rf"found case_2 damaged \(.*{problem}"):
        Cases(nnUNetDatasetBlosc2(str(folder)), 2, labelled=True).load_case("case_2")


def test_arrays_of_numbers_are_read_as_numpy_does(tmp_path):
    content = ARRAY % b"f8" + ADDRESS
    (tmp_path / "a.pkl").write_bytes(content)
    assert read_properties(tmp_path / "a.pkl") == pickle.loads(content)


def test_damaged_cases_are_named_where_they_are_read(stsr, tmp_path):
    """Places outside of the image, labels that are none, and blocks that cannot be unpacked when a patch is cropped."""
    folder = tmp_path / "cases"
    shutil.copytree(stsr / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres", folder)
    dataset = nnUNetDatasetBlosc2(str(folder))
    image, labels, _, properties = dataset.load_case("case_2")
    image, labels, file = image[:], labels[:], folder / "case_2.pkl"
    whole, highest = file.read_bytes(), int(labels.max())

    def patch(labelled=True):
        found = Cases(dataset, highest, labelled).load_case("case_2")
        return [array[:, 2:9] for array in found[:2]], found[3]

    assert all((ours == theirs[:, 2:9]).all() for ours, theirs in zip(patch()[0], (image, labels)))
    for places in (
        {1: np.array([[0, 1, 2, 10**6]])},
        {1: np.array([[0, 1, 2]])},
        {1: np.array([[0.5, 1, 2, 3]])},
        [],
        5,
    ):
        file.write_bytes(pickle.dumps(properties | {"class_locations": places}))
        with pytest.raises(InputError, match="found case_2 damaged"):
            patch()
    file.write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match="found case_2 damaged"):
        patch()
    assert patch(labelled=False)[1] == {"class_locations": {}}
    file.write_bytes(whole)

    stored = folder / "case_2.b2nd", folder / "case_2_seg.b2nd"
    for path, array, damage, message in (
        (stored[0], image[:, :-1], b"", "an image of shape"),
        (stored[0], image + np.float32(np.inf), b"", "values that are not finite"),
        (stored[0], image, b"\xff", "Error while"),
        (stored[1], labels + 1, b"", f"label {highest + 1}, of -1 to {highest}"),
    ):
        before = path.read_bytes()
        path.unlink()
        blosc2.asarray(np.ascontiguousarray(array), urlpath=str(path))
        content = path.read_bytes()
        start, end = len(content) // 4, 3 * len(content) // 4
        path.write_bytes(content[:start] + damage * (end - start) + content[end:] if damage else content)
        with pytest.raises(InputError, match=rf"found case_2 damaged \({message}"):
            patch()
        path.write_bytes(before)


def test_preprocessed_cases_that_were_exchanged_are_named(stsr, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(stsr, root)
    folder = root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_3d_fullres"
    names = [path.stem for path in folder.glob("*.pkl")]
    for name in names:
        leave_record(record_of(folder, name), [], results_of(folder, name))
    with environment(root, tmp_path):
        started(make_trainer(TRAINER)).do_split()
    one, other = (folder / f"{name}.b2nd" for name in names[:2])
    assert one.stat().st_size != other.stat().st_size
    one.write_bytes(other.read_bytes())
    with environment(root, tmp_path), pytest.raises(InputError, match=f"found files of {names[0]} of other sizes"):
        started(make_trainer(TRAINER)).do_split()
