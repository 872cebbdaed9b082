"""What can be exported: `meshes` makes the first three, `dicom_seg` the last, `files` the others."""

MESHES = ("stl", "obj", "glb")
DICOM_SEG = "dicom-seg"
FORMATS = (*MESHES, "seg.nrrd", "nii.gz", DICOM_SEG)
ENDINGS = {DICOM_SEG: "seg.dcm"}  # of file names, where they are not the format's name
SEGMENT_TYPES = ("binary", "labelmap")  # of DICOM Segmentations; the first is the default, which all programs know
