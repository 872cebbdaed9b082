"""All challenges, by name."""

from __future__ import annotations

from umamba2.challenges.challenge import Challenge
from umamba2.challenges.stsr import STSR
from umamba2.challenges.toothfairy3 import INTERACTIVE, MULTICLASS
from umamba2.errors import InputError

CHALLENGES = {challenge.name: challenge for challenge in (MULTICLASS, INTERACTIVE, STSR)}


def register(challenge: Challenge) -> Challenge:
    """Make a challenge known to all commands, and return it. One of the same name is replaced."""
    CHALLENGES[challenge.name] = challenge
    return challenge


def find_challenge(name: str) -> Challenge:
    """The challenge of that name. Raises InputError for an unknown one."""
    if name not in CHALLENGES:
        raise InputError(f"challenge: found {name!r}, expected one of {', '.join(CHALLENGES)}")
    return CHALLENGES[name]
