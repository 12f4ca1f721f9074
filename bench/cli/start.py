"""Where the command line begins, and where it can be stopped while it imports."""

from __future__ import annotations

import os

from bench.study import signals


def main() -> None:
    """Runs the command that was typed."""
    signals.handle(signals.end_at_once)  # to the end of the process, but for what a command does
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signals.end_with_parent()  # or a worker would live on when its torchrun is killed
    from bench.cli.app import app

    app()
