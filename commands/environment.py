"""What every process does first: read what is configured (in dev and test with what they make by themselves) and start logging."""

import os
from pathlib import Path

from app.catalogue import load
from app.kernel import context
from commands.defaults import fill_in
from commands.servers import running_servers
from config.logging import configure_logging
from config.settings import ROOT, Settings, read_settings


def load_settings() -> Settings:
    """Return this process's settings. Raises SettingsError."""
    settings = read_settings()
    if settings.is_production:
        return settings
    from commands.dev import sandbox_settings  # dev and test only: production never imports the stand-ins

    data_dir = Path(settings.data_dir)
    # A command beside a running `./hall dev` finds the hall and the servers that it has started, whatever ports that was told to take.
    environment = running_servers(data_dir) | os.environ
    sandbox_port = read_settings(environment).sandbox_port
    return read_settings(fill_in(environment, sandbox_settings(data_dir, sandbox_port), data_dir))


def start_logging(settings: Settings, process: str) -> None:
    """Send this process's logs to stderr, each line with the present request id."""
    configure_logging(settings.log_level, settings.log_format, process=process, request_id=context.request_id.get)


def load_catalogue() -> load.Catalogue:
    """Read and judge config/catalogue. Raises CatalogueBroken with one line per mistake."""
    return load.load_catalogue(ROOT / "config" / "catalogue")
