"""Small DICOM series whose grey values are a formula of the place in the patient, written for the tests.

So the truth needs no reader: wherever a volume says that a voxel lies, its value is `grey` of that place.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from umamba2.scans.geometry import Geometry
from umamba2.scans.orientation import to_patient

SHAPE = (12, 20, 24)
SPACING = (0.25, 0.3, 0.4)  # mm, (z, y, x)
ORIGIN = (-7.0, -6.0, 10.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SECRETS = ("Roe^Jane", "MRN-4711", "19710203", "20240506", "ACC-99", "Dr^Who")  # what must not reach any output

Change = Callable[[Dataset, int], None]


def grey(places: np.ndarray) -> np.ndarray:
    """Grey values at places (..., 3) in mm, LPS: smooth, and another one however the axes are turned."""
    x, y, z = np.moveaxis(np.asarray(places, float), -1, 0)
    return 900 * np.sin(0.5 * x + 1) + 700 * np.sin(0.7 * y + 0.3 * z) + 600 * np.cos(0.9 * z - 0.2 * x)


def truth(geometry: Geometry) -> np.ndarray:
    """Grey values (z, y, x) on a grid."""
    indices = np.indices(geometry.shape).reshape(3, -1).T
    return grey(to_patient(geometry, indices)).reshape(geometry.shape)


def plane(position: Sequence[float], axes: Sequence[float] = AXIAL) -> np.ndarray:
    """The whole grey values (y, x) of a slice."""
    right, down = np.reshape(axes, (2, 3))
    y, x = np.indices(SHAPE[1:])
    places = np.array(position) + x[..., None] * right * SPACING[2] + y[..., None] * down * SPACING[1]
    return np.rint(grey(places)).astype(np.int16)


def place(k: int) -> tuple[float, float, float]:
    """Where the slices of a plain series lie."""
    return ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * k


def voxels() -> np.ndarray:
    """The grey values (z, y, x) of a plain series, int16."""
    return np.stack([plane(place(k)) for k in range(SHAPE[0])])


def header(patient: str = SECRETS[1], study: str = "study", series: str = "series") -> Dataset:
    """The header of a CT slice, without its place and voxels."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = SECRETS[0], patient, SECRETS[2]
    ds.StudyDate, ds.AccessionNumber, ds.ReferringPhysicianName = SECRETS[3:]
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[patient, study])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, study, series])
    ds.Modality, ds.SeriesNumber = "CT", 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.ImageOrientationPatient = list(AXIAL)
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set, and the folders above it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_slices(
    folder: Path,
    change: Change | None = None,
    places: Callable[[int], Sequence[float]] = place,
    axes: Sequence[float] = AXIAL,
    names: Sequence[int] | None = None,
    count: int = SHAPE[0],
    pack: Callable[[np.ndarray], bytes] | None = None,
    syntax: str = ExplicitVRLittleEndian,
    name: str = "IM{:04d}",
    **of_header: str,
) -> Path:
    """Write a series of slices.

    Args:
        folder: Where to.
        change: Alters the header of slice k.
        places: The position of slice k.
        axes: How slices lie.
        names: The number in the name of each file; slices without one are left out.
        count: Of slices.
        pack: Packs a slice (y, x).
        syntax: The transfer syntax.
        name: Of the files.
        of_header: For `header`.
    """
    for k in range(count):
        if names is not None and names[k] < 0:
            continue
        ds = header(**of_header)
        ds.InstanceNumber, ds.ImagePositionPatient = k + 1, [f"{mm:.10g}" for mm in places(k)]
        ds.ImageOrientationPatient = [f"{cosine:.12g}" for cosine in axes]
        ds.SliceLocation = f"{places(k)[2]:.10g}"
        stored = plane(places(k), axes)
        if pack is None:
            ds.PixelData = stored.astype("<i2").tobytes()
        else:
            ds.PixelData = encapsulate([pack(stored)])
            ds["PixelData"].VR = "OB"
        if change is not None:
            change(ds, k)
        save(ds, folder / name.format(k if names is None else names[k]), syntax)
    return folder


def many_slices(order: Sequence[int] | None = None, **of_header: str) -> Dataset:
    """A CT image with several slices in one file, as standards do not have it and makers do."""
    ds = header(**of_header)
    frames = voxels() if order is None else voxels()[list(order)]
    ds.NumberOfFrames, ds.InstanceNumber, ds.ImagePositionPatient = len(frames), 1, list(ORIGIN)
    ds.PixelRepresentation, ds.RescaleIntercept = 0, -5000
    ds.PixelData = (frames.astype(np.int32) + 5000).astype("<u2").tobytes()
    return ds


def enhanced(order: Sequence[int], positions: Callable[[int], Sequence[float]] = place) -> Dataset:
    """An Enhanced CT image, with its slices in an order."""
    ds = many_slices(order)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for keyword in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient",
                    "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        delattr(ds, keyword)
    shared, measures, direction, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    direction.ImageOrientationPatient = list(AXIAL)
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -5000, "HU"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    shared.PixelValueTransformationSequence = [values]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for k in order:
        own, where = Dataset(), Dataset()
        where.ImagePositionPatient = list(positions(k))
        own.PlanePositionSequence = [where]
        ds.PerFrameFunctionalGroupsSequence.append(own)
    return ds


def lossless_jpeg(stored: np.ndarray, precision: int = 16) -> bytes:
    """A slice of so many bits as lossless JPEG (ITU T.81, process 14, each voxel predicted by its left neighbour)."""
    numbers = stored.astype(np.uint16).astype(int)
    before = np.zeros_like(numbers)
    before[:, 1:], before[1:, 0], before[0, 0] = numbers[:, :-1], numbers[:-1, 0], 1 << (precision - 1)
    differences = (numbers - before + (1 << 15)) % (1 << 16) - (1 << 15)
    bits = []
    for difference in differences.ravel().tolist():
        if difference == -(1 << 15):
            bits.append(format(16, "05b"))
            continue
        size = abs(difference).bit_length()
        rest = difference if difference > 0 else difference + (1 << size) - 1
        bits.append(format(size, "05b") + (format(rest, f"0{size}b") if size else ""))
    content = "".join(bits)
    content += "1" * (-len(content) % 8)
    data = bytes(int(content[i : i + 8], 2) for i in range(0, len(content), 8)).replace(b"\xff", b"\xff\0")
    lengths = bytes(17 if length == 5 else 0 for length in range(1, 17))  # 17 codes of 5 bits each
    table = b"\xff\xc4" + struct.pack(">H", 2 + 1 + 16 + 17) + b"\0" + lengths + bytes(range(17))
    frame = b"\xff\xc3" + struct.pack(">HBHHB3B", 11, precision, *stored.shape, 1, 1, 0x11, 0)
    scan = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + table + frame + scan + data + b"\xff\xd9"


def jpeg_2000(stored: np.ndarray) -> bytes:
    """A slice as a JPEG 2000 code stream of unsigned numbers of 16 bits."""
    from PIL import Image

    content = io.BytesIO()
    image = Image.fromarray(stored.view(np.uint16))
    image.save(content, "JPEG2000", irreversible=False, no_jp2=True)
    return content.getvalue()


def rle(stored: np.ndarray, bits: int = 16) -> bytes:
    """A slice in DICOM's run lengths: the highest bytes, then those below, none of them repeated."""
    segments = []
    for shift in range(bits - 8, -1, -8):
        part = (stored.astype(np.int64) >> shift & 0xFF).astype(np.uint8).tobytes()
        pieces = [part[i : i + 128] for i in range(0, len(part), 128)]
        segment = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
        segments.append(segment + b"\0" * (len(segment) % 2))
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts))) + b"".join(segments)


def jpeg_ls(stored: np.ndarray) -> bytes:
    """A slice as JPEG-LS."""
    import jpeg_ls as codec

    return bytes(codec.encode_array(np.ascontiguousarray(stored.view(np.uint16)), 0))
