"""The floors (import-linter), then all tests, with a worker process per core and one more. What they need they install and start themselves."""

import os
import subprocess
import sys
from pathlib import Path

import click

from config.settings import ROOT


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def command(ctx: click.Context) -> None:
    """The floors, then all tests. Further words go to pytest, for example: ./hall test tests/payments -x (-n0: in one process)"""
    linter = Path(sys.executable).with_name("lint-imports")
    floors = subprocess.run([linter, "--no-cache"], cwd=ROOT, check=False).returncode
    # Each worker starts its own servers; tests/conftest.py says which tests stay together. One more than cores: a third of a test's time is
    # waiting for what another process does. Later words win: -n0 switches it off.
    pytest = [sys.executable, "-m", "pytest", "-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile", "--no-loadscope-reorder", *ctx.args]
    tests = subprocess.run(pytest, cwd=ROOT, check=False).returncode
    sys.exit(floors or tests)
