"""From file to file: what a platform mounts, the cases in it, and what is collected."""

from __future__ import annotations

from umamba2.lazy import lazily

__all__ = [
    "Case",
    "Job",
    "Outcome",
    "check_model",
    "find_images",
    "find_model",
    "is_model",
    "leave_record",
    "list_cases",
    "recognise",
    "run",
    "run_cases",
    "succeeded",
]

__getattr__ = lazily(
    __name__,
    {
        "Case": "job",
        "Job": "job",
        "Outcome": "job",
        "check_model": "job",
        "find_images": "locate",
        "find_model": "locate",
        "is_model": "locate",
        "leave_record": "contract",
        "list_cases": "contract",
        "recognise": "locate",
        "run": "contract",
        "run_cases": "job",
        "succeeded": "job",
    },
)
