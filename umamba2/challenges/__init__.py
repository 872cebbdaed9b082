"""The challenges as their platforms run them: what is mounted, what is collected, and the published settings."""

from umamba2.challenges.cases import Case, Job, Outcome, check_model, run_cases, succeeded
from umamba2.challenges.challenge import Challenge
from umamba2.challenges.contract import leave_record, list_cases, run
from umamba2.challenges.locate import CHALLENGES, find_challenge, find_images, find_model, is_model, recognise

__all__ = [
    "CHALLENGES",
    "Case",
    "Challenge",
    "Job",
    "Outcome",
    "check_model",
    "find_challenge",
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
