"""Serve HTTP: one process, or HALL_PROCESSES of them on one port (SO_REUSEPORT)."""

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import structlog
from tornado.netutil import bind_sockets

from commands.environment import load_settings, start_logging
from commands.migrate import prepare
from commands.servers import CannotStart, die_with_parent
from config.settings import ROOT, Settings
from handlers.http_front import Front

log = structlog.get_logger(__name__)

DRAIN_S = 15


@click.command()
@click.option("--child", is_flag=True, hidden=True)
def command(child: bool) -> None:
    """Serve HTTP."""
    settings = load_settings()
    if settings.processes > 1 and not child:
        _serve_many(settings)
        return
    start_logging(settings, "web")
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then let requests in flight end."""
    from commands.assembly import assemble
    from commands.routes import MAX_BODY_BYTES, make_application

    if not settings.is_production:  # there it is a step of its own in each release: migrate, publish
        await prepare(settings, with_demo=True)
    hall = await assemble(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    application = make_application(hall)
    server = Front(application, max_body_size=MAX_BODY_BYTES, max_buffer_size=MAX_BODY_BYTES, xheaders=settings.is_production)
    try:
        sockets = bind_sockets(settings.port, settings.host, reuse_port=settings.processes > 1)
    except OSError as error:
        await hall.close()
        raise CannotStart(
            f"port {settings.port} for web cannot be used ({error.strerror}): stop what uses it, or set HALL_PORT"
        ) from error
    await server.serve(*sockets)
    settle()
    log.info("web.started", address=f"{settings.host}:{settings.port}")
    await stop.wait()
    log.info("web.stopping")
    hall.stopping.set()  # /readyz says so; streams close by it
    server.stop()
    try:
        await asyncio.wait_for(application.all_ended(), DRAIN_S)
    except TimeoutError:
        log.warning("web.requests_cut", count=application.in_flight)
    await server.close_all_connections()
    await hall.close()
    log.info("web.stopped")


def settle() -> None:
    """Set the process for serving, after start-up: when garbage is looked for, and how many connections it may hold."""
    gc.collect()
    gc.freeze()  # what start-up made stays: collections need not walk it again
    # A request makes thousands of short-lived objects: at the usual 700 a sixth of the time under load went into looking for cycles.
    # Ten thousand connections are a million objects that live: the young are looked at in passes of a few milliseconds, and the old
    # (a pass of half a second) only after as many new objects as forty thousand connections make.
    gc.set_threshold(10_000, 5, 1_000)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve_many(settings: Settings) -> None:
    environment = dict(os.environ)
    # Set before any child imports prometheus_client, and emptied at every start: counters of dead processes would add up.
    environment["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="hall-metrics-")
    children: list[subprocess.Popen[bytes]] = []
    stopping = False

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(Path(ROOT) / "main.py"), "web", "--child"], env=environment, preexec_fn=die_with_parent
        )

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    children.extend(start() for _ in range(settings.processes))
    while not stopping:
        for index, child in enumerate(children):
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
            if not stopping:
                children[index] = start()
    for child in children:
        child.wait()
