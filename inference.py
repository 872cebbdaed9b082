"""The container's entry point: every scan the platform mounted, one label map for each, an exit code.

Settings come from options, else from UMAMBA2_* variables, else from what is mounted.
"""

from __future__ import annotations

import argparse
import sys

from umamba2 import container
from umamba2.messages import exit_code


def main(argv: list[str] | None = None) -> int:
    """Run the platform's job; 0 if every case went well, 1 if anything was wrong."""
    parser = container.option_parser("Segment the dental CBCT scans that a challenge platform mounted.")
    options = parser.parse_args(argv)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from umamba2 import challenges

    if options.challenge:
        challenge = challenges.find_challenge(options.challenge)
    else:
        challenge = challenges.recognise(options.input)
    source, output = container.mounts(challenge, options)
    cases = challenges.list_cases(challenge, source, output, options.suffix)
    outcomes = challenges.run(cases, container.load_job(challenge, options), output)
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
