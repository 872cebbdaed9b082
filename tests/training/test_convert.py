"""Conversion of downloads against the label table as the challenge describes it, and everything a download can lack."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from downloads import SHAPE, phantom, stsr, toothfairy3, write

from umamba2 import cli
from umamba2.challenges import CHALLENGES
from umamba2.errors import InputError
from umamba2.scans.clicks import read_clicks
from umamba2.training import convert as module
from umamba2.training.convert import convert, make_splits, recognise
from umamba2.training.dataset import read_dataset
from umamba2.training.fingerprint import read_case, take_fingerprint
from umamba2.training.nnunet import environment
from umamba2.training.workers import check_disk

# The release's ids and the training ids, as the challenge and the method's authors describe them.
TRAINING_ID = {
    **{i: i for i in range(19)},
    **{21 + i: 19 + i for i in range(8)},
    **{31 + i: 27 + i for i in range(8)},
    **{41 + i: 35 + i for i in range(8)},
    103: 43,
    104: 44,
    105: 45,
    **{100 + 10 * q + p: 46 for q in range(1, 5) for p in range(1, 9)},
}


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_toothfairy3(tmp_path):
    source = toothfairy3(tmp_path / "download")
    before = {p: p.stat().st_mtime_ns for p in source.rglob("*")}
    folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert folder == tmp_path / "raw" / "Dataset301_ToothFairy3"
    translate = np.vectorize(TRAINING_ID.get, otypes=[np.uint8])
    for seed, case in enumerate(("ToothFairy3F_001", "ToothFairy3P_002", "ToothFairy3S_0003")):
        np.testing.assert_array_equal(array(folder / "imagesTr" / f"{case}_0000.nii.gz"), phantom(seed).image)
        labels = array(folder / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(labels, translate(phantom(seed).labels))
    description = json.loads((folder / "dataset.json").read_text())
    assert description["numTraining"] == 3
    assert description["challenge"] == MULTICLASS
    assert sorted(description["labels"].values()) == list(range(47))
    assert description["labels"]["upper left first molar"] == TRAINING_ID[26]
    assert {p: p.stat().st_mtime_ns for p in source.rglob("*")} == before


def test_nnunet_finds_nothing_wrong_with_it(tmp_path):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download", ending=".mha"), tmp_path / "raw")
    cases = get_filenames_of_train_images_and_targets(str(folder))
    assert len(cases) == 3
    for case in cases.values():
        assert integrity.verify_labels(case["label"], SimpleITKIO, list(range(47)))
        assert integrity.check_cases(case["images"], case["label"], 1, SimpleITKIO)


@pytest.mark.parametrize(("case", "fine"), [("ToothFairy3S_0048", True), ("ToothFairy3S_0049", False)])
def test_one_case_of_the_release_has_two_ids_of_its_own(tmp_path, caplog, case, fine):
    source = toothfairy3(tmp_path / "download", ("ToothFairy3F_001", case))
    labels = phantom(1).labels.copy()
    labels[3, 4, 5:7] = 60, 160
    write(source / "labelsTr" / f"{case}.nii.gz", labels)
    if fine:
        folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
        assert array(folder / "labelsTr" / f"{case}.nii.gz")[3, 4, 5:7].tolist() == [TRAINING_ID[38], TRAINING_ID[138]]
    else:
        with pytest.raises(InputError, match="converting: found 1 of 2 cases that failed"):
            convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
        assert f"{case}.nii.gz: found label values 60, 160, expected 0-18, 21-28" in caplog.text


def test_the_interactive_dataset_has_two_classes_and_clicks_on_them(tmp_path):
    folder = convert(CHALLENGES[INTERACTIVE], toothfairy3(tmp_path / "download"), tmp_path / "raw")
    for seed, case in enumerate(("ToothFairy3F_001", "ToothFairy3P_002")):
        labels = array(folder / "labelsTr" / f"{case}.nii.gz")
        expected = np.select([phantom(seed).labels == 3, phantom(seed).labels == 4], [1, 2], 0)
        np.testing.assert_array_equal(labels, expected)
        clicks, warnings = read_clicks(folder / "clicks" / f"iac_clicks_{case}.json", SHAPE)
        assert not warnings
        assert np.bincount(clicks.labels, minlength=2).tolist() == [5 * bool((labels == i).any()) for i in (1, 2)]
        assert all(labels[tuple(c)] == side + 1 for c, side in zip(clicks.coordinates.astype(int), clicks.labels))


def test_stsr_with_unlabelled_cases(tmp_path, caplog):
    caplog.set_level("INFO")
    source = stsr(tmp_path / "download")
    write(source / "Validation" / "STS25_Validation_0001.nii.gz", phantom(0).image)
    folder = convert(CHALLENGES[STSR], source, tmp_path / "raw" / "Dataset777_Teeth")
    assert folder.name == "Dataset777_Teeth"
    unlabelled = ["STS25_Train_Unlabeled_00001", "STS25_Train_Unlabeled_00002"]
    assert sorted(p.name for p in (folder / "imagesUn").iterdir()) == [f"{case}_0000.nii.gz" for case in unlabelled]
    labels = array(folder / "labelsTr" / "STS25_Train_Labeled_00002.nii.gz")
    np.testing.assert_array_equal(labels, phantom(1).stsr_labels)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert all(split["unlabeled"] == unlabelled for split in splits)
    said = caplog.text
    assert "3 labelled cases (images in Labeled, labels in Labeled), 2 unlabelled (in Unlabeled), 1 files" in said
    assert "left out (in Validation)" in said


@pytest.mark.parametrize(
    "move",
    [
        lambda name: f"images/{name}.nii.gz" if "Masks" not in name else f"masks/{name.removesuffix('_Masks')}.nii.gz",
        lambda name: f"{name.replace('_Masks', '_mask')}.nii.gz",
        lambda name: f"a/{name}_0000.nii.gz" if "Masks" not in name else f"b/labelsTr/{name}.nii.gz",
    ],
    ids=["images and masks", "one flat folder", "nnU-Net's names"],
)
def test_other_layouts_of_the_same_files(tmp_path, move):
    plain = stsr(tmp_path / "plain")
    expected = recognise(plain, may_lack_labels=True)
    for path in plain.rglob("*.nii.gz"):
        target = tmp_path / "moved" / move(path.name.removesuffix(".nii.gz"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = recognise(tmp_path / "moved", may_lack_labels=True)
    assert found.labelled.keys() == expected.labelled.keys()
    assert found.unlabelled.keys() == expected.unlabelled.keys()
    for case, pair in found.labelled.items():
        assert [p.read_bytes() for p in pair] == [p.read_bytes() for p in expected.labelled[case]]


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch):
    source = toothfairy3(tmp_path / "download")
    real, converted = module.convert_case, []

    def stop_at_the_second(challenge, case, *rest):
        if len(converted) == 1:
            raise KeyboardInterrupt
        converted.append(case)
        return real(challenge, case, *rest)

    monkeypatch.setattr(module, "convert_case", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    folder = tmp_path / "raw" / "Dataset301_ToothFairy3"
    with pytest.raises(InputError, match=r"found 1 cases, expected the 3 that dataset.json states \(is the conversion"):
        read_dataset(folder)
    # What a process killed in the middle leaves: an image without labels, and half a file under another name.
    shutil.copy(source / "imagesTr" / "ToothFairy3P_002_0000.nii.gz", folder / "imagesTr")
    (folder / "labelsTr" / ".ToothFairy3P_002.partial.nii.gz").write_bytes(b"half")

    def note(challenge, case, *rest):
        converted.append(case)
        return real(challenge, case, *rest)

    monkeypatch.setattr(module, "convert_case", note)
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert sorted(converted) == ["ToothFairy3F_001", "ToothFairy3P_002", "ToothFairy3S_0003"]
    for difference in (3600, -3600):  # a correction may be older than our copy
        now = (source / "labelsTr" / "ToothFairy3P_002.nii.gz").stat().st_mtime + difference
        os.utime(source / "labelsTr" / "ToothFairy3P_002.nii.gz", (now, now))
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert converted[3:] == ["ToothFairy3P_002"] * 2


@pytest.mark.parametrize("place", ["imagesTr/ToothFairy3F_001_0000", "labelsTr/ToothFairy3P_002", "clicks/iac_clicks_"])
@pytest.mark.parametrize("harm", ["half", "foreign", "none"])
def test_a_case_that_is_not_as_it_was_written_is_converted_again(tmp_path, place, harm):
    source = toothfairy3(tmp_path / "download")
    folder = convert(CHALLENGES[INTERACTIVE], source, tmp_path / "raw")
    path = next(path for path in sorted(folder.rglob("*")) if str(path.relative_to(folder)).startswith(place))
    before = path.read_bytes()
    if harm == "half":
        path.write_bytes(before[: len(before) // 2])
    elif harm == "foreign":
        shutil.copyfile(path.with_name(path.name.replace("F_001", "S_0003").replace("P_002", "S_0003")), path)
        assert path.read_bytes() != before
    else:
        path.unlink()
    assert convert(CHALLENGES[INTERACTIVE], source, tmp_path / "raw") == folder
    assert path.read_bytes() == before


def test_cases_of_another_table_of_ids_are_converted_again(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    source = toothfairy3(tmp_path / "download")
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert "3 of 3 cases are there already" in caplog.text
    caplog.clear()
    monkeypatch.setattr(module, "_table", lambda challenge: 1)
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert "are there already" not in caplog.text


@pytest.mark.slow
def test_processes_give_the_same_as_one(tmp_path):
    source = toothfairy3(tmp_path / "download")
    one, two = (
        convert(CHALLENGES[INTERACTIVE], source, tmp_path / name, workers=n) for name, n in (("one", 1), ("two", 2))
    )
    files, others = (sorted(p.relative_to(d) for p in d.rglob("*") if p.is_file()) for d in (one, two))
    assert files == others
    files = [file for file in files if file.parent.name != "converted"]  # which holds dates
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)


def test_nan_voxels_are_mended_in_the_copy(tmp_path, caplog):
    source = toothfairy3(tmp_path / "download")
    image = phantom(0).image.astype(np.float32)
    image[2, 3, 4] = np.nan
    path = write(source / "imagesTr" / "ToothFairy3F_001_0000.nii.gz", image)
    folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    copy = array(folder / "imagesTr" / path.name)
    assert copy[2, 3, 4] == np.nanmin(image)
    assert (copy != image).sum() == 1
    assert "found 1 NaN or infinite voxels" in caplog.text


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_voxels_in_a_file_of_their_own_come_along(tmp_path, ending):
    """A header alone would name a file that is not beside the copy."""
    source = toothfairy3(tmp_path / "download")
    expected = {}
    for path in [*source.rglob("imagesTr/*.nii.gz"), *source.rglob("labelsTr/*.nii.gz")]:
        image = sitk.ReadImage(str(path))
        place = path.with_name(path.name.removesuffix(".nii.gz") + ending)
        expected[place.name] = sitk.GetArrayFromImage(image)
        path.unlink()
        header = place.with_suffix(".mhd" if ending == ".mha" else ".nhdr")
        sitk.WriteImage(image, str(header))
        header.rename(place)
        with pytest.raises(RuntimeError):  # as a copy of the header alone would be
            sitk.ReadImage(str(shutil.copy(place, tmp_path)))
    folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    images = sorted((folder / "imagesTr").iterdir())
    assert len(images) == 3
    for path in images:
        np.testing.assert_array_equal(array(path), expected[path.name])


def test_splits():
    cases = [f"case_{i}" for i in range(13)]
    splits = make_splits(cases)
    assert splits == make_splits(cases[::-1])
    assert sorted(case for split in splits for case in split["val"]) == sorted(cases)
    assert len(splits) == 5
    assert all(sorted(split["train"] + split["val"]) == sorted(cases) for split in splits)
    assert all("unlabeled" not in split for split in splits)
    assert len(make_splits(cases[:3], ["other"])) == 3


def test_linked_folders_are_followed(tmp_path):
    plain = toothfairy3(tmp_path / "plain")
    (tmp_path / "linked").mkdir()
    for folder in plain.iterdir():
        (tmp_path / "linked" / folder.name).symlink_to(folder)
    (tmp_path / "linked" / "imagesTr" / "itself").symlink_to(plain / "imagesTr")
    found = recognise(tmp_path / "linked", may_lack_labels=False)
    assert found.labelled.keys() == recognise(plain, may_lack_labels=False).labelled.keys()


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    source, scandir = stsr(tmp_path / "download"), os.scandir

    def forbidden(folder):  # for root no folder is
        if Path(folder).name == "Unlabeled":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(InputError, match=r"Unlabeled: could not be read \(Permission denied\), expected a readable"):
        recognise(source, may_lack_labels=True)


def test_cases_that_the_download_no_longer_has_are_named(tmp_path):
    source = stsr(tmp_path / "download")
    folder = convert(CHALLENGES[STSR], source, tmp_path / "raw")
    case = "STS25_Train_Unlabeled_00001"
    write(source / "Labeled" / f"{case}_Mask.nii.gz", phantom(5).stsr_labels)
    expected = f"imagesUn/{case}_0000.nii.gz: found no such unlabelled case in the download, expected this file removed"
    with pytest.raises(InputError, match=expected):
        convert(CHALLENGES[STSR], source, tmp_path / "raw")
    (folder / "imagesUn" / f"{case}_0000.nii.gz").unlink()
    convert(CHALLENGES[STSR], source, tmp_path / "raw")
    shutil.copy(folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesUn")
    with pytest.raises(InputError, match=f"found {case} in imagesTr and imagesUn, expected it in one of them"):
        read_dataset(folder)


def test_names_that_are_those_of_labels_are_refused(tmp_path):
    """nnU-Net keeps the labels of a preprocessed case A as A_seg, where those of a case of that name would lie."""
    source = toothfairy3(tmp_path / "download", ("ToothFairy3F_001", "ToothFairy3F_001_seg"))
    with pytest.raises(InputError, match=r"found the case ToothFairy3F_001_seg, .* a name that does not end in _seg"):
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": ["CT"]}}, "found channel_names"),
        ({"overwrite_image_reader_writer": "os"}, "found overwrite_image_reader_writer os, expected a class"),
        ({"overwrite_image_reader_writer": ["SimpleITKIO"]}, "found overwrite_image_reader_writer"),
        (b"\xef\xbb\xbf", "found a byte order mark"),
    ],
)
def test_descriptions_that_nnunet_stumbles_over_are_refused(tmp_path, change, message):
    folder = convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download"), tmp_path / "raw")
    file = folder / "dataset.json"
    content = file.read_bytes()
    file.write_bytes(
        change + content if isinstance(change, bytes) else json.dumps(json.loads(content) | change).encode()
    )
    with pytest.raises(InputError, match=f"dataset.json: {message}"):
        read_dataset(folder)


def test_axes_that_run_another_way_cost_a_warning(tmp_path, caplog):
    source = toothfairy3(tmp_path / "download")
    for name in ("imagesTr/ToothFairy3F_001_0000.nii.gz", "labelsTr/ToothFairy3P_002.nii.gz"):
        image = sitk.ReadImage(str(source / name))
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(source / name))
    take_fingerprint(read_dataset(convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")), tmp_path / "x.json", 1)
    said = caplog.text
    for case in ("ToothFairy3F_001", "ToothFairy3P_002"):
        assert said.count(f"{case}.nii.gz: found the direction") == 1  # the copies have their images'
    assert "1 of 3 cases whose axes run another way in the patient (ToothFairy3F_001, ...)" in said


def remove(name):
    return lambda source: next(source.rglob(name)).unlink()


@pytest.mark.parametrize(
    ("challenge", "damage", "message"),
    [
        (MULTICLASS, shutil.rmtree, "download: found no such folder, expected a challenge's download"),
        (MULTICLASS, lambda s: shutil.rmtree(s / "labelsTr"), "ToothFairy3F_001_0000.nii.gz: found no labels for it"),
        (MULTICLASS, lambda s: shutil.rmtree(s / "imagesTr"), "ToothFairy3F_001.nii.gz: found no image"),
        (MULTICLASS, remove("ToothFairy3P_002.nii.gz"), "ToothFairy3P_002_0000.nii.gz: found no labels for it"),
        (STSR, remove("STS25_Train_Labeled_00002_Masks.nii.gz"), "Labeled_00002.nii.gz: found no labels for it"),
        (STSR, lambda s: shutil.rmtree(s / "Labeled"), "found 0 labelled cases, expected at least 2 images"),
        (
            MULTICLASS,
            lambda s: write(s / "imagesTr" / "_0000.nii.gz", phantom(0).image),
            "_0000.nii.gz: found no case in its name",
        ),
        (STSR, lambda s: write(s / "_Mask.nii.gz", phantom(0).labels), "_Mask.nii.gz: found no case in its name"),
        (
            MULTICLASS,
            lambda s: write(s / "imagesTr" / "ToothFairy3F_001_0000.mha", phantom(0).image),
            "found .*ToothFairy3F_001_0000.mha for the same case, expected one file",
        ),
        (
            MULTICLASS,
            lambda s: (
                write(s / "imagesTr" / "Other_0000.mha", phantom(0).image),
                write(s / "labelsTr" / "Other.mha", phantom(0).labels),
            ),
            "found .mha, .nii.gz, expected one of .nii.gz, .mha, .nrrd for all",
        ),
    ],
)
def test_an_incomplete_download_is_named_at_once(tmp_path, challenge, damage, message):
    source = (stsr if challenge == STSR else toothfairy3)(tmp_path / "download")
    damage(source)
    with pytest.raises(InputError, match=message):
        convert(CHALLENGES[challenge], source, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labelsTr/ToothFairy3P_002.nii.gz", lambda: phantom(1).labels[:-1], "found size .*expected .*its image's"),
        ("labelsTr/ToothFairy3P_002.nii.gz", lambda: phantom(1).labels + np.uint8(1), "found label values"),
        ("labelsTr/ToothFairy3P_002.nii.gz", lambda: phantom(1).labels / np.float32(3), "expected whole numbers"),
        ("imagesTr/ToothFairy3P_002_0000.nii.gz", lambda: None, "found the end of the file"),
    ],
    ids=["grid", "ids", "fractions", "damaged"],
)
def test_a_faulty_case_is_named_and_the_others_are_converted(tmp_path, capsys, file, content, message):
    source = toothfairy3(tmp_path / "download")
    if (array := content()) is None:
        (source / file).write_bytes((source / file).read_bytes()[:300])
    else:
        write(source / file, array)
    assert cli.main(["convert", "toothfairy3", str(source), str(tmp_path / "raw"), "--workers", "1"]) == 1
    problem, summary = capsys.readouterr().err.strip().splitlines()
    assert problem.startswith(f"error: {source / file}: ")
    assert re.search(message, problem)
    assert summary == "error: converting: found 1 of 3 cases that failed, expected none"
    labels = tmp_path / "raw" / "Dataset301_ToothFairy3" / "labelsTr"
    assert len(list(labels.iterdir())) == 2


def test_spacing_of_labels_must_be_the_images(tmp_path, caplog):
    source = toothfairy3(tmp_path / "download")
    write(source / "labelsTr" / "ToothFairy3P_002.nii.gz", phantom(1).labels, (2.0, 2.0, 2.1))
    with pytest.raises(InputError, match="found 1 of 3"):
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert "found spacing (2.09" in caplog.text


def test_a_folder_that_holds_another_dataset_is_not_overwritten(tmp_path):
    source = toothfairy3(tmp_path / "download")
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw" / "Dataset400_Mine")
    with pytest.raises(InputError, match="found challenge toothfairy3-multiclass, expected toothfairy3-interactive"):
        convert(CHALLENGES[INTERACTIVE], source, tmp_path / "raw" / "Dataset400_Mine")
    with pytest.raises(InputError, match="found the name Dataset1_Mine, expected Dataset<three digits>_<name>"):
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw" / "Dataset1_Mine")
    with pytest.raises(InputError, match="expected another place"):
        convert(CHALLENGES[MULTICLASS], source, source / "raw")


def test_a_full_disk_is_noticed_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"found 1.0 kB free, expected at least [1-9].* for the converted cases"):
        convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download"), tmp_path / "raw")
    check_disk(tmp_path / "not" / "there", 999, "nothing")


@pytest.mark.parametrize("place", ["Labeled/STS25_Train_Labeled_00002", "Unlabeled/STS25_Train_Unlabeled_00009"])
def test_label_maps_in_the_place_of_scans_are_refused(tmp_path, caplog, place):
    """As masks are whose names say nothing, or say it in another way, such as "case_Mask (1)"."""
    source = stsr(tmp_path / "download")
    write(source / f"{place}.nii.gz", phantom(1).stsr_labels.astype(np.int16))
    with pytest.raises(InputError, match="found 1 of 3 cases that failed"):
        convert(CHALLENGES[STSR], source, tmp_path / "raw")
    assert f"{Path(place).name}.nii.gz: found nothing but label values in it, expected a scan" in caplog.text


def test_archives_that_were_not_unpacked_are_named(tmp_path, caplog):
    source = stsr(tmp_path / "download")
    convert(CHALLENGES[STSR], source, tmp_path / "raw")
    assert "found archives" not in caplog.text
    for name in ("Labeled_2.zip", "Unlabeled/more.tar.gz", "c.TGZ", ".hidden.zip", "d.nii.gz.md5"):
        (source / name).write_bytes(b"")
    recognise(source, may_lack_labels=True)
    assert f"{source}: found archives (Labeled_2.zip, c.TGZ, Unlabeled/more.tar.gz), expected what is" in caplog.text


@pytest.mark.parametrize(
    ("challenge", "first", "again"),
    [
        (STSR, "Labeled/STS25_Train_Labeled_00002", "Unlabeled/STS25_Train_Unlabeled_00002"),
        (STSR, "Unlabeled/STS25_Train_Unlabeled_00001", "Unlabeled/STS25_Train_Unlabeled_00002"),
        (MULTICLASS, "imagesTr/ToothFairy3F_001_0000", "imagesTr/ToothFairy3S_0003_0000"),
    ],
)
@pytest.mark.parametrize("packed_anew", [False, True])
def test_a_scan_that_is_there_twice_is_said(tmp_path, caplog, challenge, first, again, packed_anew):
    source = {STSR: stsr, MULTICLASS: toothfairy3}[challenge](tmp_path / "download")
    one, other = source / f"{first}.nii.gz", source / f"{again}.nii.gz"
    if packed_anew:
        write(other, array(one).astype(np.int32))
    else:
        shutil.copy(one, other)
    line = f"{other}: found the voxels of {one}, expected a scan of its own for each case"
    for _ in range(2):  # what is there already is not read again, and said all the same
        caplog.clear()
        convert(CHALLENGES[challenge], source, tmp_path / "raw")
        assert caplog.text.count("found the voxels of") == caplog.text.count(line) == 1
    for record in (tmp_path / "raw").glob("*/converted/*.json"):  # as an earlier version left them
        record.write_text(json.dumps({**json.loads(record.read_text()), "note": None}))
    caplog.clear()
    convert(CHALLENGES[challenge], source, tmp_path / "raw")
    assert "found the voxels of" not in caplog.text


def test_labels_of_nothing_are_said(tmp_path, caplog):
    source = stsr(tmp_path / "download")
    write(source / "Labeled" / "STS25_Train_Labeled_00002_Masks.nii.gz", phantom(1).stsr_labels * 0)
    convert(CHALLENGES[STSR], source, tmp_path / "raw")
    assert caplog.text.count("found no labels in it") == 1
    assert "Labeled_00002_Masks.nii.gz: found no labels in it, expected 0-12" in caplog.text


def test_a_scan_that_shows_nothing_is_refused(tmp_path, caplog):
    source = toothfairy3(tmp_path / "download")
    write(source / "imagesTr" / "ToothFairy3P_002_0000.nii.gz", np.full(SHAPE, 7, np.int16))
    with pytest.raises(InputError, match="converting: found 1 of 3"):
        convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert "ToothFairy3P_002_0000.nii.gz: found 7 in all voxels, expected a scan" in caplog.text


def test_a_damaged_description_is_written_again(tmp_path):
    source = toothfairy3(tmp_path / "download")
    folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    before = (folder / "dataset.json").read_bytes()
    (folder / "dataset.json").write_text("[1]")
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert (folder / "dataset.json").read_bytes() == before


def test_planning_sees_what_happened_to_a_converted_dataset(tmp_path, caplog):
    folder = convert(CHALLENGES[MULTICLASS], toothfairy3(tmp_path / "download"), tmp_path / "raw")
    dataset = read_dataset(folder)
    facts = read_case(*dataset.cases["ToothFairy3P_002"], dataset.ids)
    assert facts.shape == SHAPE
    assert facts.labelled == np.count_nonzero(phantom(1).labels)
    write(folder / "labelsTr" / "ToothFairy3P_002.nii.gz", np.full(SHAPE, 47, np.uint8))
    with pytest.raises(InputError, match="reading: found 1 of 3"):
        take_fingerprint(dataset, tmp_path / "x.json", 1)
    assert "found label values 47, expected 0 to 46" in caplog.text


@pytest.mark.slow
def test_the_fingerprint_is_nnunets(tmp_path):
    """One reading gives what nnU-Net's own extraction writes, to the last sample."""
    extractor = pytest.importorskip("nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor")
    source = toothfairy3(tmp_path / "download")
    image = phantom(1).image.astype(np.float32)
    image[:3], image[:, -4:], image[5, 6, 7] = 0, 0, 0.25  # nnU-Net crops to what is not zero
    write(source / "imagesTr" / "ToothFairy3P_002_0000.nii.gz", image, (2.0, 1.5, 1.0))
    write(source / "labelsTr" / "ToothFairy3P_002.nii.gz", phantom(1).labels, (2.0, 1.5, 1.0))
    folder = convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    take_fingerprint(read_dataset(folder), tmp_path / "ours.json", 1)
    ours = json.loads((tmp_path / "ours.json").read_text())
    with environment(nnUNet_raw=tmp_path / "raw", nnUNet_preprocessed=tmp_path / "theirs"):
        extractor.DatasetFingerprintExtractor(folder.name, 1).run()
    theirs = json.loads((tmp_path / "theirs" / folder.name / "dataset_fingerprint.json").read_text())
    assert ours.keys() == theirs.keys() | {"made_of"}
    for key in ("spacings", "shapes_after_crop", "median_relative_size_after_cropping"):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-12)
    (ours,), (theirs,) = (x["foreground_intensity_properties_per_channel"].values() for x in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key  # nnU-Net adds up in single precision


def test_labels_that_lie_elsewhere_cost_a_warning(tmp_path, caplog):
    source = toothfairy3(tmp_path / "download")
    for name, off in (("ToothFairy3F_001", 50), ("ToothFairy3P_002", 0.01)):
        image = sitk.ReadImage(str(source / f"labelsTr/{name}.nii.gz"))
        image.SetOrigin((image.GetOrigin()[0] + off, *image.GetOrigin()[1:]))
        sitk.WriteImage(image, str(source / f"labelsTr/{name}.nii.gz"))
    convert(CHALLENGES[MULTICLASS], source, tmp_path / "raw")
    assert "ToothFairy3F_001.nii.gz: found the origin (50.0, " in caplog.text
    assert "ToothFairy3P_002.nii.gz: found the origin" not in caplog.text
