"""What workers in other processes load in place of a model; scans tell it what to do."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
from challenge_names import STSR
from stand_in import StandIn

from umamba2.segmenter import Segmenter

SLOW, POISON = 7000, 8000  # intensities: take a second, kill the process


class FarmHand(StandIn):
    """A stand-in that is slow at some scans, and dies of others."""

    def predict(self, volume, spacing, *arguments, **named):
        if (volume == SLOW).any():
            time.sleep(1)
        if (volume == POISON).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(np.where(volume >= SLOW, 0, volume), spacing, *arguments, **named)


loads = 0


def load():
    """The tools of a worker, as `umamba2.jobs.batch.Tools`."""
    global loads
    loads += 1
    return Segmenter(FarmHand(STSR)), None
