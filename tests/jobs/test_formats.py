"""``--format`` and ``--pulp-per-tooth`` of ``umamba2 predict``, with a stand-in for the network."""

from __future__ import annotations

import json

import highdicom as hd
import numpy as np
import pydicom
import pytest
from challenge_names import MULTICLASS, STSR
from dicom_cases import write_series
from stand_in import OBLIQUE, StandIn, scan, use_stand_in, write_image, write_model

import umamba2
from umamba2 import cli
from umamba2.scans.geometry import Geometry
from umamba2.scans.volumes import read_labels, read_volume

GRID = Geometry((20, 16, 12), (0.3, 0.3, 0.4), (1.0, -2.0, 3.0))


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd):
    """Runs `umamba2 predict` with a stand-in model, which finds in a voxel what its grey value says."""
    use_stand_in(monkeypatch)

    def run(source, out, *options, task=MULTICLASS):
        model = write_model(tmp_path / "model", task, task)
        arguments = ["-i", source, "-o", out, "-m", model, "--no-postprocess", *options]
        code = cli.main(["predict", *map(str, arguments)])
        return code, capfd.readouterr().err.splitlines()

    return run


def toothy():
    """Grey values of a tooth (36, training id 32), its pulp (46) and a lump of pulp far away."""
    values = np.full(GRID.shape, -1000, np.int16)
    values[1:11, 2:14, 2:12], values[4:8, 5:11, 5:9], values[5:7, 7:9, 17:19] = 1032, 1046, 1046
    return values


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_folder_of_slices_becomes_a_dicom_segmentation(predict, tmp_path, kind):
    series = write_series(tmp_path / "series", GRID, toothy())
    options = ["--format", "dicom-seg", "--seg-type", kind, "--pulp-per-tooth", "--statistics"]
    code, errors = predict(series, tmp_path / "out", *options)
    assert code == 0
    assert any("pulp per tooth: found no tooth around 8 voxels" in line for line in errors)
    seg = hd.seg.segread(tmp_path / "out/series.seg.dcm")
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence if segment.SegmentNumber]
    assert labels == ["36 lower left first molar", "pulp", "pulp of tooth 36"]
    assert seg.PatientID == "PHANTOM-7"
    assert seg.SegmentationType == kind.upper()
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 12
    statistics = json.loads((tmp_path / "out/series.statistics.json").read_text())
    voxels = {one["id"]: (one["name"], one["voxels"]) for one in statistics["structures"]}
    assert voxels == {36: ("lower left first molar", 1104), 50: ("pulp", 8), 136: ("pulp of tooth 36", 96)}
    read = seg.get_volume(combine_segments=True)
    counts = {int(number): int(count) for number, count in zip(*np.unique(read.array, return_counts=True)) if number}
    assert sorted(counts.values()) == [8, 96, 1104]
    # Nothing of the patient is anywhere but in the DICOM file.
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".dcm" or b"PHANTOM-7" not in path.read_bytes()
    # A segmentation beside its scan is no scan.
    (series / "other.dcm").write_bytes((tmp_path / "out/series.seg.dcm").read_bytes())
    assert read_volume(series).array.shape == GRID.shape


@pytest.mark.parametrize("to_file", [False, True])
def test_whose_a_segmentation_is_was_read_with_the_voxels(predict, tmp_path, monkeypatch, to_file):
    """Whatever comes into the folder while the network is at work."""
    series = write_series(tmp_path / "series", GRID, toothy())
    find = StandIn.predict

    def slowly(self, *arguments, **options):
        for path in series.iterdir():
            slice_ = pydicom.dcmread(path)
            slice_.PatientID, slice_.PatientName = "ANOTHER", "Doe^Jane"
            slice_.save_as(path)
        return find(self, *arguments, **options)

    monkeypatch.setattr(StandIn, "predict", slowly)
    out = tmp_path / ("a.dcm" if to_file else "out/series.seg.dcm")
    assert predict(series, out if to_file else out.parent, "--format", "dicom-seg")[0] == 0
    assert hd.seg.segread(out).PatientID == "PHANTOM-7"


def test_finished_cases_are_skipped_until_the_format_changes(predict, tmp_path, capfd):
    write_image(tmp_path / "in/a.mha", toothy(), GRID)
    arguments = (tmp_path / "in", tmp_path / "out", "--format")
    for what, files in (("dicom-seg", {"a.seg.dcm"}), ("nrrd", {"a.seg.dcm", "a.nrrd"})):
        for _ in range(2):
            code, _ = predict(*arguments, what)
            assert code == 0
        assert {path.name for path in (tmp_path / "out").glob("a.*")} == files
    places = [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("a.*")]
    predict(*arguments, "dicom-seg")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out").glob("a.*")] == places


def test_without_a_dicom_scan_there_is_a_warning_that_counts(predict, tmp_path):
    source = write_image(tmp_path / "a.nii.gz", toothy(), GRID)
    out = tmp_path / "b.dcm"
    code, errors = predict(source, out, "--format", "dicom-seg")
    assert code == 0
    assert any("found a scan that is no DICOM" in line for line in errors)
    assert hd.seg.segread(out).PatientID == ""
    assert predict(source, out, "--format", "dicom-seg", "--strict")[0] == 1


def test_a_scan_without_structures_has_no_dicom_segmentation(predict, tmp_path):
    source = write_image(tmp_path / "a.nii.gz", scan(), OBLIQUE)
    code, errors = predict(source, tmp_path / "out", "--format", "dicom-seg")
    assert code == 1
    assert any("found no structure, expected at least one: a DICOM Segmentation cannot be empty" in e for e in errors)
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
def test_other_formats_of_label_maps(predict, tmp_path, ending):
    for name in ("a.mha", "b.v2.nii.gz"):
        write_image(tmp_path / "in" / name, toothy(), GRID)
    assert predict(tmp_path / "in", tmp_path / "out", "--format", ending)[0] == 0
    assert {p.name for p in (tmp_path / "out").glob("?.*")} == {f"a.{ending}", f"b.v2.{ending}"}
    labels, geometry = read_labels(tmp_path / f"out/a.{ending}")
    assert set(np.unique(labels)) == {0, 36, 50}
    np.testing.assert_allclose(geometry.origin, GRID.origin)


def test_what_cannot_be_is_said_before_anything_is_done(predict, tmp_path):
    source = write_image(tmp_path / "in/a.mha", toothy(), GRID)
    _, errors = predict(source, tmp_path / "a.nrrd", "--format", "dicom-seg")
    assert "found another file name ending than .seg.dcm, expected that or a folder" in errors[-1]
    _, errors = predict(source, tmp_path / "out", "--pulp-per-tooth", task=STSR)
    assert "pulp per tooth: found the challenge stsr, expected one with pulp and each tooth by its number" in errors[-1]
    _, errors = predict(source, tmp_path / "out", "--pulp-per-tooth", "--numbering", "training")
    assert "pulp per tooth: found the training numbering" in errors[-1]
    assert not (tmp_path / "out").exists()


def test_two_scans_never_share_an_output(predict, tmp_path):
    for name in ("a.mha", "a.nii.gz"):
        write_image(tmp_path / "in" / name, toothy(), GRID)
    code, errors = predict(tmp_path / "in", tmp_path / "out", "--format", "dicom-seg")
    assert code == 1
    assert any("found" in line and "a.seg.dcm" in line for line in errors)
    assert [path.name for path in (tmp_path / "out").glob("*.dcm")] == ["a.seg.dcm"]


def test_a_model_of_no_challenge(predict, tmp_path):
    source = write_image(tmp_path / "a.mha", toothy(), GRID)
    assert predict(source, tmp_path / "out", "--format", "dicom-seg", "--challenge", "none")[0] == 0
    seg = hd.seg.segread(tmp_path / "out/a.seg.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["class 32", "class 46"]
    _, errors = predict(source, tmp_path / "other", "--pulp-per-tooth", "--challenge", "none")
    assert "pulp per tooth: found no challenge, expected a challenge" in errors[-1]


def test_the_front_door_tells_pulps_apart(predict, tmp_path):
    model = write_model(tmp_path / "model", MULTICLASS, MULTICLASS)
    segmenter = umamba2.load(model, postprocess=False, pulp_per_tooth=True)
    assert segmenter.structures[136] == "pulp of tooth 36"
    assert segmenter.structures[50] == "pulp"
    assert segmenter.settings["pulp_per_tooth"] is True
    segmentation = segmenter.segment((toothy(), (0.4, 0.3, 0.3)))
    assert set(np.unique(segmentation.labels)) == {0, 36, 50, 136}
    assert set(np.unique(segmentation.labels)) - {0} <= set(segmentation.structures)
    assert any("no tooth around 8 voxels" in warning for warning in segmentation.warnings)
