"""The challenges as data: what is mounted, what is collected, how it is graded, and the published settings."""

from umamba2.challenges.challenge import Challenge
from umamba2.challenges.registry import CHALLENGES, find_challenge, register
from umamba2.challenges.stsr import STSR
from umamba2.challenges.toothfairy3 import INTERACTIVE, MULTICLASS

__all__ = ["CHALLENGES", "INTERACTIVE", "MULTICLASS", "STSR", "Challenge", "find_challenge", "register"]
