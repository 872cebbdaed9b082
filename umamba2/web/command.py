"""``umamba2 serve``: the page in the browser."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from umamba2.errors import needing
from umamba2.messages import say

PORT = 8765


def add_parser(commands: Any) -> None:
    """Add ``serve`` to the commands of an argparse parser."""
    parser = commands.add_parser(
        "serve",
        help="open, segment and click in the browser",
        description="Serve a page to open scans, segment them and guide the canals by clicks. It listens to this "
        "machine alone, and needs the token in the address that it prints.",
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    add(
        "--model",
        action="append",
        default=[],
        help="model folder, or the name of a model; may be given for each challenge (default: the demo models)",
    )
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token",
        default=os.environ.get("UMAMBA2_TOKEN") or None,
        help="what the page's address must have in it (default: UMAMBA2_TOKEN, else a new one each time)",
    )
    tokens.add_argument("--no-token", action="store_true", help="let everybody on this machine in")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; returns 0."""
    with needing("serve", "serve"):
        import edt  # noqa: F401
        import jinja2  # noqa: F401
        import PIL  # noqa: F401
        import scipy  # noqa: F401
        import skimage  # noqa: F401
        import trimesh  # noqa: F401

        from umamba2.web.app import make_app
        from umamba2.web.gate import Gate, check_token, is_loopback
        from umamba2.web.listening import bind, serve
        from umamba2.web.nninteractive import Adapter
    from umamba2.web.models import Models
    from umamba2.web.routes import Desk
    from umamba2.web.studies import Studies
    from umamba2.web.tasks import Line

    token = None if options.no_token else options.token or secrets.token_urlsafe(32)
    check_token(options.host, token)
    models = Models.load(options.model)
    demos = [fact["challenge"] for fact in models.facts() if fact["demo"]]
    if demos:
        say(f"warning: demo models for {', '.join(demos)}, which have never seen a patient", sys.stderr)
    if not is_loopback(options.host):
        say("warning: what goes over the network is not encrypted; a tunnel (ssh -L) is safer", sys.stderr)
    with bind(options.host, options.port) as listening, tempfile.TemporaryDirectory(prefix="umamba2-serve-") as folder:
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/"
        say(address if token is None else f"{address}?token={token}")
        desk = Desk(models, Studies(Path(folder)), Line())
        serve(Gate(make_app(desk, Adapter(desk).routes()), token, options.host), listening)
    return 0
