"""What the way from the start of the process to the first tile imports: run time is a third of a ToothFairy3 score."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from small_models import make_model
from stand_in import scan, write_image

from umamba2.models.folder import slim

ROOT = Path(__file__).resolve().parents[2]
# Whole packages that training, evaluation or progress bars in notebooks take, each of which costs time to import.
UNWANTED = {
    *("nnunetv2", "dynamic_network_architectures", "batchgenerators", "batchgeneratorsv2", "acvl_utils", "monai"),
    *("evalutils", "pandas", "skimage", "sklearn", "matplotlib", "PIL", "scipy", "edt", "nibabel", "imagecodecs"),
    *("torchvision", "transformers", "IPython", "ipywidgets", "tqdm.notebook", "tqdm.auto", "tqdm.autonotebook"),
    *("torch._dynamo", "torch._inductor", "multiprocessing.pool", "http.server"),
}
# Runs inference.py as the container does, then lists what was imported in the file that the first argument names.
REPORT = """
import sys
report = sys.argv.pop(1)
import inference
code = inference.main()
with open(report, "w") as file:
    print(*sys.modules, file=file)
sys.exit(code)
"""


def test_a_run_imports_nothing_that_it_does_not_need(tmp_path):
    make_model(tmp_path / "full", classes=13)
    model = slim(tmp_path / "full", tmp_path / "slim")
    write_image(tmp_path / "in/a.nii.gz", scan())
    folders = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", str(model)]
    command = [sys.executable, "-c", REPORT, str(tmp_path / "modules"), "--challenge", "stsr", *folders]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a_Mask.nii.gz").is_file()
    modules = set((tmp_path / "modules").read_text().split())
    assert {"torch", "SimpleITK", "umamba2.engine.predict"} <= modules
    assert modules & UNWANTED == set()
