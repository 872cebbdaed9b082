"""The container's entry point: every scan the platform mounted, one label map for each, an exit code.

Settings come from options, else from UMAMBA2_* variables, else from what is mounted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

MODEL_PLACES = (Path("/opt/ml/model"), Path(__file__).resolve().parent / "resources")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, with the environment as their defaults; an empty variable counts as none."""
    environment = {name: value for name, value in os.environ.items() if value}.get
    parser = argparse.ArgumentParser(description="Segment the dental CBCT scans that a challenge platform mounted.")
    parser.add_argument(
        "--challenge",
        default=environment("UMAMBA2_CHALLENGE"),
        help="toothfairy3-multiclass, toothfairy3-interactive or stsr (default: recognised from the input)",
    )
    parser.add_argument("--input", default=environment("UMAMBA2_INPUT"), help="default: /input or /inputs")
    parser.add_argument("--output", default=environment("UMAMBA2_OUTPUT"), help="default: /output or /outputs")
    parser.add_argument(
        "--model", default=environment("UMAMBA2_MODEL"), help="default: /opt/ml/model, then resources/ beside this file"
    )
    parser.add_argument("--label-map", choices=("platform", "public", "training"), default="platform")
    parser.add_argument(
        "--suffix", default=os.environ.get("UMAMBA2_STSR_SUFFIX"), help="STSR: <case><suffix>.nii.gz (default: _Mask)"
    )
    parser.add_argument("--folds", nargs="+", help="numbers or 'all' (default: every fold there is)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", choices=("auto", "fp16", "bf16", "fp32"), default="auto")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the platform's job; 0 if every case went well, 1 if anything was wrong."""
    arguments = parse(argv)
    from umamba2 import challenges
    from umamba2.errors import InputError

    try:
        if arguments.challenge:
            challenge = challenges.find_challenge(arguments.challenge)
        else:
            challenge = challenges.recognise(arguments.input)
        source = Path(arguments.input or challenge.mounts[0])
        output = Path(arguments.output or challenge.mounts[1])
        cases = challenges.list_cases(challenge, source, output, arguments.suffix)
        model = challenges.find_model(challenge.name, [arguments.model] if arguments.model else MODEL_PLACES)

        from umamba2.engine.predict import Predictor  # torch takes seconds to import: not before it is needed

        predictor = Predictor.from_folder(
            model,
            folds=arguments.folds,
            device=arguments.device,
            precision=arguments.precision,
            **challenge.predictor_settings(),
        )
        challenges.check_model(predictor, challenge, model)
        job = challenges.Job(predictor, challenge, arguments.label_map, background_on_failure=True)
        outcomes = challenges.run(cases, job, output)
    except (InputError, OSError) as error:  # OSError: a mount that cannot be listed
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
