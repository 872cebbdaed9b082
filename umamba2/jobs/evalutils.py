"""The ToothFairy3 tasks as an evalutils `SegmentationAlgorithm`, for templates that call one.

    from umamba2.jobs.evalutils import ToothFairy3Algorithm
    ToothFairy3Algorithm("toothfairy3-multiclass", model="/opt/ml/model").process()

`inference.py` does the same job without evalutils, faster (evalutils loads every image twice), and goes on after a file
that cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from umamba2.challenges import find_challenge
from umamba2.errors import InputError, ModelError
from umamba2.jobs.container import MODEL_PLACES
from umamba2.jobs.contract import list_cases
from umamba2.jobs.job import Case, Outcome
from umamba2.scans.volumes import as_volume, from_image, to_image
from umamba2.segmenter import Segmenter, load

try:
    from evalutils import SegmentationAlgorithm
except ImportError as error:
    raise ImportError(f"found no evalutils.SegmentationAlgorithm ({error}), expected evalutils 0.4.2") from None


class ToothFairy3Algorithm(SegmentationAlgorithm):
    """A ToothFairy3 task run by evalutils: ``process()`` segments what is in the input folder.

    Args:
        challenge: The task's name.
        model: A model folder (see `umamba2.load`), or a segmenter that is loaded already.
        input_path: Where the container's input is mounted.
        output_path: Where its output is collected.
        settings: Further arguments of `umamba2.load`.

    Raises:
        InputError: It is another challenge.
        ModelError: There is no model, or it is one for another challenge.
    """

    def __init__(
        self,
        challenge: str,
        model: str | Path | Segmenter = MODEL_PLACES[0],
        input_path: str | Path = "/input",
        output_path: str | Path = "/output",
        **settings: Any,
    ):
        self.challenge = find_challenge(challenge)
        if not self.challenge.has_results:
            raise InputError(f"challenge: found {challenge!r}, expected one of ToothFairy3's")
        options = {"challenge": challenge, "orientation": "keep", "all_clicks": True, **settings}
        self.segmenter = model if isinstance(model, Segmenter) else load(model, **options)
        if self.segmenter.challenge != self.challenge:
            found = self.segmenter.challenge.name if self.segmenter.challenge else "no challenge"
            raise ModelError(f"model: found a segmenter for {found}, expected one for {challenge}")
        self._mounts = Path(input_path), Path(output_path)
        self._listed: dict[Path, Case] = {}
        self._outcome = Outcome(Case(Path("image"), Path("image")))  # replaced for each case in `process_case`
        super().__init__(
            validators={},  # evalutils rejects equal images, but the interactive task runs one scan six times
            input_path=self._mounts[0] / self.challenge.image_folder,
            output_path=self._mounts[1] / self.challenge.output_folder,
            output_file=self._mounts[1] / "results.json",
        )

    def process(self) -> None:
        """Segment every image and write ``results.json``."""
        self._listed = {case.image: case for case in list_cases(self.challenge, *self._mounts)}
        self._output_path.mkdir(parents=True, exist_ok=True)  # evalutils makes the last folder only
        super().process()

    def process_case(self, *, idx: int, case: Any) -> dict[str, Any]:
        """Turn one row of evalutils' table of files into its entry in ``results.json``."""
        path = Path(case["path"])
        self._outcome = Outcome(self._listed.get(path, Case(path, self._output_path / path.name)))
        entry = super().process_case(idx=idx, case=case)
        return {**entry, "error_messages": self._outcome.problems}

    def predict(self, *, input_image: sitk.Image) -> sitk.Image:
        """Segment an image with the clicks of the case being processed; the label map lies on the same grid."""
        name = self._outcome.case.image
        if input_image.GetDimension() != 3:
            raise InputError(f"{name}: found a {input_image.GetDimension()}-D image, expected 3-D")
        volume = as_volume(*from_image(input_image), str(name))
        clicks = self._outcome.case.clicks if self.segmenter.takes_clicks else None
        try:
            found = self.segmenter.segment(volume, clicks, record=self._outcome.record)
        finally:
            self._outcome.report_warnings()
        return to_image(found.labels, found.geometry)
