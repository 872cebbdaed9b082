"""The container's entry point: every scan the platform mounted, one label map for each, an exit code.

Settings come from options, else from UMAMBA2_* variables, else from what is mounted.
"""

from __future__ import annotations

import argparse
import sys

from umamba2.jobs import container
from umamba2.jobs.termination import handling_sigterm
from umamba2.messages import exit_code


def main(argv: list[str] | None = None) -> int:
    """Run the platform's job; 0 if every case has an output (and, if strict, nothing was wrong), else 1."""
    with handling_sigterm():  # from the start: the first process of a container ignores the signal otherwise
        parser = container.option_parser("Segment the dental CBCT scans that a challenge platform mounted.")
        options = parser.parse_args(argv)
        return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from umamba2.challenges import find_challenge
    from umamba2.jobs import list_cases, recognise, run, succeeded

    challenge = find_challenge(options.challenge) if options.challenge else recognise(options.input)
    source, output = container.mounts(challenge, options)
    cases = list_cases(challenge, source, output, options.suffix)
    segmenter = container.load_segmenter(challenge, options)
    outcomes = run(cases, segmenter, output, container.time_of_end(options))
    return 0 if succeeded(outcomes, options.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
