"""What can be exported, by the ending of the files: `meshes` makes the first three, `files` the others."""

MESHES = ("stl", "obj", "glb")
FORMATS = (*MESHES, "seg.nrrd", "nii.gz")
