"""Hostile input as hypothesis draws it: seconds in the suite, and as long as is wanted with UMAMBA2_FUZZ.

A longer run, with fifty times as many: ``UMAMBA2_FUZZ=50 ./run_tests.sh -m hypothesis tests/scans tests/models``.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("UMAMBA2_FUZZ", "1"))


def fuzzed(examples: int) -> settings:
    """Draw so many examples, or as many times more as are asked for."""
    return settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
