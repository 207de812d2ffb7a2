"""The worker: relays events, delivers messages, follows payments, recomputes deadlines. Any number may run.

Everything it does is found in MongoDB, so a worker that dies loses nothing: the next one, or the same one restarted, goes on. Redis only
wakes it sooner.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import click
import structlog
from prometheus_client import start_http_server
from redis.exceptions import RedisError

from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from commands.environment import load_settings, start_logging
from config.settings import Settings
from push.lanes import LANES

log = structlog.get_logger(__name__)

# After a request to stop: longer than a round of deliveries and a call of a vendor, then what is in hand is cut.
STOP_S = 15
CUT_S = 3


@click.command()
def command() -> None:
    """Relay events, deliver messages, follow payments."""
    settings = load_settings()
    start_logging(settings, "worker")
    asyncio.run(work(settings))


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; what is in hand is finished first."""
    from commands.assembly import assemble

    hall = await assemble(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    while not hall.catalogue.is_loaded and not stop.is_set():  # nothing is published yet, and cases need their items
        await hall.catalogue.load()
        await asyncio.sleep(0.2)
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port, settings.host)
    log.info("worker.started")
    loops = asyncio.create_task(_loops(hall, stop))
    await asyncio.wait({loops, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({loops}, timeout=STOP_S)
    if not loops.done():  # a database that has gone, most likely: what is in hand is left as if the process had died, and taken up again
        log.warning("worker.cut")
        loops.cancel()
        await asyncio.wait({loops}, timeout=CUT_S)
        if not loops.done():
            os._exit(1)
    if not loops.cancelled():
        loops.result()
    await hall.close()
    log.info("worker.stopped")


async def _loops(hall: Any, stop: asyncio.Event) -> None:
    """Everything a worker does, until `stop` is set and what is in hand has ended."""
    deliver_soon = {lane: asyncio.Event() for lane in LANES}
    sweep_soon, escalate_soon, late_soon = asyncio.Event(), asyncio.Event(), asyncio.Event()
    remind_soon, look_soon = asyncio.Event(), asyncio.Event()
    hall.when_clock_moves += [sweep_soon.set, escalate_soon.set, late_soon.set, remind_soon.set, look_soon.set]
    async with asyncio.TaskGroup() as group:
        group.create_task(hall.relay.run(stop))
        for lane, soon in deliver_soon.items():  # a loop each: a slow lane keeps none of the others waiting
            group.create_task(_every(0.5, stop, f"deliver_{lane}", partial(_deliver, hall, lane), soon))
        group.create_task(_every(2, stop, "reports", hall.push.reports.sweep))
        group.create_task(_every(5, stop, "jpush_receipts", hall.jpush_receipts.sweep))
        group.create_task(_every(2, stop, "customer_messages", hall.customer_messages.answer_due))
        group.create_task(_every(1, stop, "hooks", hall.hook_deliveries.deliver_due))
        group.create_task(_every(2, stop, "followers", hall.push.followers.ask_due))
        group.create_task(_every(10, stop, "follower_list", hall.push.followers.walk))
        group.create_task(_every(2, stop, "payments", lambda: hall.payments.sweep(utc_now())))
        group.create_task(_every(1, stop, "ledger", lambda: hall.payments.seal_ledger(utc_now())))
        group.create_task(_every(1, stop, "receipts", hall.payments.number_receipts))
        group.create_task(_every(2, stop, "departments", hall.bill_reports.sweep))
        group.create_task(_every(60, stop, "reconcile", lambda: hall.reconcile.run_due(utc_now())))
        group.create_task(_every(1800, stop, "deadlines", hall.recompute_deadlines))
        group.create_task(_every(30, stop, "cases", hall.sweeps.run, sweep_soon))
        group.create_task(_every(60, stop, "files", hall.upkeep.run))
        group.create_task(_every(30, stop, "cards", hall.cards.escalate_due, escalate_soon))
        group.create_task(_every(30, stop, "work_orders", hall.work_orders.sweep, late_soon))
        group.create_task(_every(60, stop, "reminders", hall.reminders.run, remind_soon))
        group.create_task(_every(60, stop, "news_look", hall.news.look, look_soon))
        group.create_task(_every(1, stop, "news", hall.news.run))
        group.create_task(_every(20, stop, "calendar", hall.recounts.run_due))
        group.create_task(_every(0.5, stop, "campaigns", hall.campaigns.sending.run))
        group.create_task(_listen(hall, stop, deliver_soon))


async def _deliver(hall: Any, lane: str) -> None:
    await hall.push.deliver_due(utc_now(), lane)


async def _every(
    seconds: float, stop: asyncio.Event, name: str, job: Callable[[], Awaitable[Any]], soon: asyncio.Event | None = None
) -> None:
    """Run a job again and again until `stop`; a failure is logged and the next round comes all the same."""
    while not stop.is_set():
        context.request_id.set(new_id("job"))
        try:
            await job()
        except Exception as error:  # a loop of the worker must outlive whatever one round meets
            log.warning("worker.round_failed", job=name, exc_info=error)
        waits = [asyncio.ensure_future(stop.wait())] + ([asyncio.ensure_future(soon.wait())] if soon else [])
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if soon:
            soon.clear()


async def _listen(hall: Any, stop: asyncio.Event, deliver_soon: Mapping[str, asyncio.Event]) -> None:
    """Wake the relay and the deliveries when another process says there is something new."""
    while not stop.is_set():
        try:
            async with hall.redis.pubsub() as channel:
                await channel.subscribe("events", "deliveries")
                while not stop.is_set():
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=1)
                    if message and message["channel"] == "events":
                        hall.relay.wake()
                    elif message:
                        for soon in deliver_soon.values():
                            soon.set()
        except (RedisError, OSError) as error:
            log.warning("worker.redis_away", error=type(error).__name__)
            try:
                await asyncio.wait_for(stop.wait(), 2)
            except TimeoutError:
                pass
