"""The names of the challenges, for tests that need no more of them."""

from umamba2.challenges import CHALLENGES

MULTICLASS, INTERACTIVE, STSR = TASKS = tuple(CHALLENGES)
