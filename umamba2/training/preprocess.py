"""nnU-Net's preprocessing of a case, with the one normalisation that it does not know."""

from __future__ import annotations

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from umamba2.engine.harmonise import harmonise
from umamba2.engine.preprocess import ct_normalise
from umamba2.models.network import HARMONISED


class Preprocessor(DefaultPreprocessor):
    """Crops, normalises and resamples as `umamba2.engine.preprocess.prepare` does at inference."""

    def run_case(self, image_files, *arguments):
        self.scan = image_files[0]
        return super().run_case(image_files, *arguments)

    def _normalize(
        self, data: np.ndarray, seg: np.ndarray, configuration_manager, foreground_intensity_properties_per_channel
    ) -> np.ndarray:
        statistics = foreground_intensity_properties_per_channel
        if configuration_manager.normalization_schemes != [HARMONISED]:
            return super()._normalize(data, seg, configuration_manager, statistics)
        return ct_normalise(harmonise(data[0], self.scan), statistics["0"])[None]
