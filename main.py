"""The one entry: python main.py dev | web | worker | <command>. `python main.py --help` lists the commands."""

import importlib
import sys

import click

# name -> help; the module commands/<name>.py is imported only when its command runs, so that each starts fast.
COMMANDS = {
    "dev": "Everything on this machine: servers, stand-ins, web and worker.",
    "demo": "Live the whole story against the running hall and print each step.",
    "test": "The floors, then all tests.",
    "bench": "The benchmarks, as ratios within one run.",
    "simulate": "Orders, providers and crashes: every fen must be explained.",
    "web": "Serve HTTP.",
    "worker": "Relay events, deliver messages, follow payments.",
    "migrate": "Create indexes.",
    "publish": "Validate config/catalogue and publish it as a version.",
    "ledger": "Prove the ledger; show its balances.",
    "reconcile": "Compare a day's bills with the books; write the report.",
    "calendar": "The notice of a year (working days): load, show.",
    "clock": "Dev and test: move the hall's clock, as in +5wd.",
    "staff": "Clerks' accounts: add, password, disable.",
    "campaign": "Campaigns: list, show, watch with a progress bar, pause, resume.",
    "replay": "Put dead events back in line.",
}


class LazyCommands(click.Group):
    """Finds a command by the name of its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyCommands)
def main() -> None:
    """Shaoguan Mobile Service Hall (韶关掌上办事大厅)."""


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        # What an operator can mend is one line; anything else is a bug and shows its trace.
        from commands.servers import CannotStart
        from config.settings import SettingsError

        if isinstance(error, (CannotStart, SettingsError)):
            sys.exit(str(error) if isinstance(error, SettingsError) else f"hall: {error}")
        raise
