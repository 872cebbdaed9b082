"""The challenges as data: what is mounted, what is collected, and the published settings."""

from umamba2.challenges.challenge import Challenge
from umamba2.challenges.registry import CHALLENGES, find_challenge

__all__ = ["CHALLENGES", "Challenge", "find_challenge"]
