"""The floors (import-linter), then all tests. What they need they install and start themselves."""

import subprocess
import sys
from pathlib import Path

import click

from config.settings import ROOT


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.pass_context
def command(ctx: click.Context) -> None:
    """The floors, then all tests. Further words go to pytest, for example: ./hall test tests/payments -x"""
    linter = Path(sys.executable).with_name("lint-imports")
    floors = subprocess.run([linter, "--no-cache"], cwd=ROOT, check=False).returncode
    tests = subprocess.run([sys.executable, "-m", "pytest", *ctx.args], cwd=ROOT, check=False).returncode
    sys.exit(floors or tests)
