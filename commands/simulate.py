"""The simulation of the payment room, in a process of its own: it lives with the tests, and needs what they need."""

import subprocess
import sys

import click

from config.settings import ROOT


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.pass_context
def command(ctx: click.Context) -> None:
    """Orders, providers and crashes against real servers. --help lists the options: --seed, --orders, --runs, --minutes, --keep."""
    sys.exit(subprocess.run([sys.executable, "-m", "tests.payments.simulation", *ctx.args], cwd=ROOT, check=False).returncode)
