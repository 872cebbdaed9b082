"""From file to file: what a platform mounts, the cases in it, and what is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umamba2.lazy import lazily

if TYPE_CHECKING:
    from umamba2.jobs.contract import leave_record, list_cases, run
    from umamba2.jobs.job import Case, Outcome, run_cases, succeeded
    from umamba2.jobs.locate import find_images, recognise

__all__ = [
    "Case",
    "Outcome",
    "find_images",
    "leave_record",
    "list_cases",
    "recognise",
    "run",
    "run_cases",
    "succeeded",
]

if not TYPE_CHECKING:
    __getattr__ = lazily(
        __name__,
        {
            **dict.fromkeys(("leave_record", "list_cases", "run"), "contract"),
            **dict.fromkeys(("Case", "Outcome", "run_cases", "succeeded"), "job"),
            **dict.fromkeys(("find_images", "recognise"), "locate"),
        },
    )
