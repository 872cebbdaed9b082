# PYTHON_ARGCOMPLETE_OK
"""The command line: names of the commands, and where each is. Options and work are in the rooms."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import umamba2
from umamba2.errors import InputError
from umamba2.messages import all_was_said, exit_code, open_standard_streams, share_the_machine

# Each command is imported only when it is asked for, so that --help and typing errors answer at once and a fault in
# one leaves the others alone.
COMMANDS = {
    "predict": ("segment scans", "umamba2.jobs.command:add_predict"),
    "read": ("write a scan as it would be segmented", "umamba2.scans.command:add_parser"),
    "evaluate": ("grade segmentations", "umamba2.evaluation.command:add_parser"),
    "serve": ("open, segment and click in the browser", "umamba2.web.command:add_parser"),
    "report": ("write a page about a segmentation", "umamba2.reports.command:add_parser"),
    "export": ("turn a label map into meshes, or add names and colours to it", "umamba2.exports.command:add_parser"),
    "models": ("list the models at hand, or add one", "umamba2.models.command:add_models"),
    "info": ("describe this installation, or a model", "umamba2.jobs.info:add_info"),
    "slim": ("write a model in the small, safe format", "umamba2.models.command:add_slim"),
    "phantom": ("write synthetic scans with exact labels and clicks", "umamba2.synthetic.command:add_parser"),
    "convert": ("turn a challenge's download into a dataset for training", "umamba2.training.command:add_convert"),
    "plan": ("plan the training on a dataset", "umamba2.training.command:add_plan"),
    "preprocess": ("preprocess a planned dataset", "umamba2.training.command:add_preprocess"),
    "pretrain": ("pretrain on scans without labels", "umamba2.training.command:add_pretrain"),
    "train": ("train one fold of a preprocessed dataset", "umamba2.training.command:add_train"),
    "package-predictions": ("zip predictions for Codabench", "umamba2.jobs.command:add_package"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 if anything was wrong, 2 for unknown options, 130 if interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if "_ARGCOMPLETE" in os.environ:
        _complete(os.environ.get("COMP_LINE", ""))
    open_standard_streams()
    share_the_machine()

    def run() -> int:
        options = _parser(arguments[:1]).parse_args(arguments)
        try:
            os.getcwd()
        except OSError as error:  # torch's libraries would end the process
            raise InputError(f"current folder: found none ({error.strerror}), expected one: change to it") from None
        return int(options.command(options))

    return exit_code(run) or int(not all_was_said())


def _parser(wanted: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="umamba2", description="Dental CBCT segmentation with U-Mamba2.")
    parser.add_argument("--version", action="version", version=f"umamba2 {umamba2.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (help_text, place) in COMMANDS.items():
        if name in wanted:
            module, _, function = place.partition(":")
            getattr(import_module(module), function)(commands)
        else:
            commands.add_parser(name, help=help_text)
    return parser


def _complete(line: str) -> None:
    """Answer a shell that wants to complete a line, and end there; needs the extra ``completion``."""
    try:
        import argcomplete
    except ImportError:
        return  # the shell sees nothing of it
    words = [word for word in line.split() if word in COMMANDS]
    argcomplete.autocomplete(_parser(words[:1]))
