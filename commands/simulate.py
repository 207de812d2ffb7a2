"""The simulations of the payment room and of messages, each in a process of its own: they live with the tests, and need what they need."""

import subprocess
import sys

import click

from config.settings import ROOT

_ROOMS = {"payments": "tests.payments.simulation", "messages": "tests.push.simulation"}


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.pass_context
def command(ctx: click.Context) -> None:
    """Crashes and bad luck against real servers: payments (as it is by itself) or messages. --help after the name lists the options."""
    words = list(ctx.args)
    room = words.pop(0) if words and words[0] in _ROOMS else "payments"
    sys.exit(subprocess.run([sys.executable, "-m", _ROOMS[room], *words], cwd=ROOT, check=False).returncode)
