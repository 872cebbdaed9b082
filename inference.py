"""The container's entry point: every scan the platform mounted, one label map for each, an exit code.

Settings come from options, else from UMAMBA2_* variables, else from what is mounted.
"""

from __future__ import annotations

import argparse
import sys

from umamba2.engine.budget import process_start
from umamba2.jobs import container
from umamba2.jobs.termination import handling_sigterm
from umamba2.messages import exit_code


def main(argv: list[str] | None = None) -> int:
    """Run the platform's job; 0 if every case has an output (and, if strict, nothing was wrong), else 1."""
    parser = container.option_parser("Segment the dental CBCT scans that a challenge platform mounted.")
    options = parser.parse_args(argv)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from umamba2 import challenges, jobs

    if options.challenge:
        challenge = challenges.find_challenge(options.challenge)
    else:
        challenge = jobs.recognise(options.input)
    source, output = container.mounts(challenge, options)
    cases = jobs.list_cases(challenge, source, output, options.suffix)
    deadline = container.deadline(options, process_start())
    job = container.load_job(challenge, options)
    with handling_sigterm():
        outcomes = jobs.run(cases, job, output, deadline)
    return 0 if jobs.succeeded(outcomes, options.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
