"""The ToothFairy3 tasks as an evalutils `SegmentationAlgorithm`, for templates that call one.

    from umamba2.jobs.evalutils import ToothFairy3Algorithm
    ToothFairy3Algorithm("toothfairy3-multiclass", model="/opt/ml/model").process()

`inference.py` does the same job without evalutils, faster (evalutils loads every image twice), and goes on after a file
that cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from umamba2.challenges import find_challenge
from umamba2.errors import InputError
from umamba2.jobs import Case, Job, Outcome, check_model, find_model, list_cases
from umamba2.scans.volumes import as_volume, from_image, to_image

try:
    from evalutils import SegmentationAlgorithm
except ImportError as error:
    raise ImportError(f"found no evalutils.SegmentationAlgorithm ({error}), expected evalutils 0.4.2") from None


class ToothFairy3Algorithm(SegmentationAlgorithm):
    """A ToothFairy3 task run by evalutils: ``process()`` segments what is in the input folder.

    ``challenge`` is a name; ``model`` a model folder, or ``predictor`` one loaded already; ``input_path`` and
    ``output_path`` are the container's mounts. Further keyword arguments go to ``Predictor.from_folder``.
    Raises InputError for another challenge, and for no model or one for another challenge.
    """

    def __init__(
        self,
        challenge: str,
        model: str | Path | None = None,
        predictor: Any = None,
        input_path: str | Path = "/input",
        output_path: str | Path = "/output",
        label_map: str | None = None,
        **settings: Any,
    ):
        self.challenge = profile = find_challenge(challenge)
        if not profile.has_results:
            raise InputError(f"challenge: found {challenge!r}, expected one of ToothFairy3's")
        if predictor is None:
            from umamba2.engine.predict import Predictor

            model = find_model(challenge, ["/opt/ml/model"] if model is None else [model])
            predictor = Predictor.from_folder(model, **{**profile.predictor_settings(), **settings})
        check_model(predictor, profile, "predictor" if model is None else model)
        self.job = Job(predictor, profile, label_map)
        self._mounts = Path(input_path), Path(output_path)
        self._listed: dict[Path, Case] = {}
        self._outcome = Outcome(Case(Path("image"), Path("image")))
        super().__init__(
            validators={},  # evalutils rejects equal images, but the interactive task runs one scan six times
            input_path=self._mounts[0] / profile.image_folder,
            output_path=self._mounts[1] / profile.output_folder,
            output_file=self._mounts[1] / "results.json",
        )

    def process(self) -> None:
        """Segment every image and write ``results.json``."""
        self._listed = {case.image: case for case in list_cases(self.challenge, *self._mounts)}
        self._output_path.mkdir(parents=True, exist_ok=True)  # evalutils makes the last folder only
        super().process()

    def process_case(self, *, idx: int, case: Any) -> dict:
        """One row of evalutils' table of files, to its entry in ``results.json``."""
        path = Path(case["path"])
        self._outcome = Outcome(self._listed.get(path, Case(path, self._output_path / path.name)))
        entry = super().process_case(idx=idx, case=case)
        return {**entry, "error_messages": self._outcome.problems}

    def predict(self, *, input_image: sitk.Image) -> sitk.Image:
        """An image to its label map on the same grid, with the clicks of the case being processed."""
        name = self._outcome.case.image
        if input_image.GetDimension() != 3:
            raise InputError(f"{name}: found a {input_image.GetDimension()}-D image, expected 3-D")
        volume = as_volume(*from_image(input_image), str(name))
        for warning in volume.warnings:
            self._outcome.report("warning", warning)
        clicks = self._outcome.read_clicks(volume.array.shape) if self.job.predictor.takes_clicks else None
        found = self.job.segment(volume, clicks, record=self._outcome.record)
        for warning in self._outcome.record.warnings:
            self._outcome.report("warning", f"{name}: {warning}")
        return to_image(found.astype(np.uint8, copy=False), volume.geometry)
