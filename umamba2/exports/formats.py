"""What can be exported, by the ending of the files."""

MESHES = ("stl", "obj", "glb")
FORMATS = (*MESHES, "seg.nrrd", "nii.gz")
