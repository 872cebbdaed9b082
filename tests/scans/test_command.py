"""``umamba2 read``: what would be segmented, in a file, and nothing of the patient in it."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from dicom_series import SECRETS, header, place, write_slices

from umamba2.cli import main
from umamba2.scans.volumes import read_volume


def told(capsys):
    said = capsys.readouterr()
    return said.out.splitlines(), said.err.splitlines()


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_folder_of_slices_becomes_an_image(tmp_path, capsys, ending):
    folder = write_slices(tmp_path / "scan", places=lambda k: place(-k))
    out = tmp_path / f"look/scan{ending}"
    assert main(["read", str(folder), "-o", str(out)]) == 0
    written, volume = read_volume(out), read_volume(folder)
    np.testing.assert_array_equal(written.array, volume.array)
    for what in ("size", "spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(written.geometry, what), getattr(volume.geometry, what), atol=1e-5)
    said, warnings = told(capsys)
    assert said == [f"{out}  24 x 20 x 12 voxels of 0.4 x 0.3 x 0.25 mm, LPS, "
                    f"values {volume.array.min()} to {volume.array.max()}"]  # fmt: skip
    assert all("field of view" in line for line in warnings)


def test_warnings_count_if_they_should(tmp_path, capsys):
    folder = write_slices(tmp_path / "scan", names=[0, 1, 2, 3, -1, 5, 6, 7, 8, 9, 10, 11])
    out = tmp_path / "out.mha"
    assert main(["read", str(folder), "-o", str(out)]) == 0
    assert main(["read", str(folder), "-o", str(out), "--strict"]) == 1
    assert out.exists()
    assert "filled in from their neighbours" in told(capsys)[1][0]


def test_a_series_by_its_number(tmp_path, capsys):
    write_slices(tmp_path / "scan/1")
    write_slices(tmp_path / "scan/2", lambda ds, k: setattr(ds, "SeriesNumber", 5), count=4, series="other")
    assert main(["read", str(tmp_path / "scan"), "-o", str(tmp_path / "o.mha"), "--series", "5"]) == 0
    assert read_volume(tmp_path / "o.mha").geometry.size == (24, 20, 4)
    assert main(["read", str(tmp_path / "scan"), "-o", str(tmp_path / "o.mha"), "--series", "x"]) == 1
    assert "found none of series x" in told(capsys)[1][-1]


def test_a_series_of_an_image_is_asked_for(tmp_path, capsys):
    folder = write_slices(tmp_path / "scan")
    main(["read", str(folder), "-o", str(tmp_path / "a.mha")])
    assert main(["read", str(tmp_path / "a.mha"), "-o", str(tmp_path / "b.mha"), "--series", "1"]) == 1
    assert "found an image and --series 1, expected DICOM" in told(capsys)[1][-1]


def test_never_over_what_is_read(tmp_path):
    folder = write_slices(tmp_path / "scan")
    main(["read", str(folder), "-o", str(tmp_path / "a.mha")])
    before = (tmp_path / "a.mha").read_bytes()
    assert main(["read", str(tmp_path / "a.mha"), "-o", str(tmp_path / "a.mha")]) == 1
    assert (tmp_path / "a.mha").read_bytes() == before


def test_nothing_of_the_patient_comes_out(tmp_path, capsys):
    """With every kind of doubt at once: two series, slices missing and twice, numbers in disorder, in a zip."""
    folder = write_slices(tmp_path / "in", lambda ds, k: setattr(ds, "InstanceNumber", 99 - k * 7 % 5),
                          names=[-1 if k == 4 else k for k in range(12)], name="Roe^Jane {}.dcm")  # fmt: skip
    write_slices(tmp_path / "in/again", count=2)
    write_slices(tmp_path / "in/other", series="other", count=5)
    archive = tmp_path / "scan.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, f"Roe^Jane MRN-4711/{path.name}{path.parent.name}")
    (tmp_path / "out").mkdir()
    assert main(["read", str(archive), "-o", str(tmp_path / "out/scan.nrrd")]) == 0
    broken = tmp_path / "broken.zip"
    broken.write_bytes(archive.read_bytes().replace(b"DICM", b"DICX"))
    assert main(["read", str(broken), "-o", str(tmp_path / "out/b.nrrd")]) == 1
    said = "\n".join(line for lines in told(capsys) for line in lines)
    assert "found 2 volumes" in said
    assert "missing slices" in said
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    ds = header()
    for secret in (*SECRETS, ds.StudyInstanceUID, ds.SeriesInstanceUID, "1.2.826.0.1.3680043"):
        assert secret not in said
        assert secret.encode() not in written
    assert len(list((tmp_path / "out").iterdir())) == 1
