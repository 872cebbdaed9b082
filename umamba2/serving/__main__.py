"""``python -m umamba2.serving``: load the model, answer until SIGTERM."""

from __future__ import annotations

import sys

from umamba2.errors import InputError
from umamba2.jobs import container
from umamba2.messages import open_standard_streams, say, share_the_machine
from umamba2.serving.server import PORT, Server


def main(argv: list[str] | None = None) -> int:
    """Serve; 0 after SIGTERM or an interrupt, 1 if there is nothing to serve with."""
    open_standard_streams()
    share_the_machine()
    parser = container.option_parser(
        "Serve Grand Challenge's invoke API: GET /health, POST /invoke.", prog="python -m umamba2.serving"
    )
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    options = parser.parse_args(argv)
    try:
        # The health check promises a loaded model, so which one must be known before there is any input to tell.
        if not options.challenge:
            raise InputError("--challenge: found none, and no UMAMBA2_CHALLENGE, expected the name of a challenge")
        Server((options.host, options.port)).serve(options)
    except (InputError, OSError) as error:  # OSError: a port that is taken
        say(f"error: {error}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
