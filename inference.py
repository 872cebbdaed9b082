"""The container's entry point: every scan the platform mounted, one label map for each, an exit code.

Settings come from options, else from UMAMBA2_* variables, else from what is mounted.
"""

from __future__ import annotations

import argparse
import sys

from umamba2.jobs.termination import endable, handling_sigterm  # first of all: nothing slow comes before the handler


def main(argv: list[str] | None = None) -> int:
    """Run the platform's job; 0 if every case has an output (and, if strict, nothing was wrong), else 1."""
    with handling_sigterm():  # the first process of a container ignores the signal otherwise
        from umamba2.jobs import container
        from umamba2.messages import exit_code, open_standard_streams, share_the_machine

        open_standard_streams()
        share_the_machine()
        parser = container.option_parser("Segment the dental CBCT scans that a challenge platform mounted.")
        options = parser.parse_args(argv)
        return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from umamba2.challenges import find_challenge
    from umamba2.errors import Terminated
    from umamba2.jobs import container, list_cases, recognise, run, succeeded

    challenge = find_challenge(options.challenge) if options.challenge else recognise(options.input)
    source, output = container.mounts(challenge, options)
    cases = list_cases(challenge, source, output, options.suffix)
    segmenter = None
    try:
        with endable():
            segmenter = container.load_segmenter(challenge, options)
    except Terminated:  # there is no time for a model, but every scan gets an output
        pass
    outcomes = run(challenge, cases, segmenter, output, container.time_of_end(options))
    return 0 if succeeded(outcomes, options.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
