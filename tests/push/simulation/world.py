"""The world of a run: the real servers, the stand-ins in a process of their own, the hall's processes, and one clock for all of them."""

import asyncio
import os
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from datetime import datetime, timedelta
from datetime import time as wall_time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from pymongo.errors import PyMongoError
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from app.kernel.clock import utc_now
from app.kernel.ids import new_id, ulid
from app.kernel.tasks import end
from app.storage import outbox
from app.storage.mongo import Database, ensure_indexes
from app.storage.redis import connect
from commands.servers import die_with_parent, free_port
from config.settings import ROOT
from handlers import gateway_reports
from miniprogram_api import message_push
from push.model import Preferences
from push.service import INDEXES
from push.templates import load_templates
from sandbox import people as sandbox_people
from sandbox.credentials import FILE_NAME, load_or_make
from sandbox.store import Store as Kept
from tests.payments.simulation.mortal import Died
from tests.payments.simulation.processes import WebApplication, mortal
from tests.push.desk import Town
from tests.push.simulation.plan import MARKER, WEB, WORKERS, Person, Plan
from tests.push.simulation.processes import Process, Settings, build

HOLDS_LOCKS_S = 0.08  # real time in which a dead process's transactions keep their locks
_SLOW_S = 5.5  # longer than the hall waits for a message vendor


class Clock:
    """Real time, and as much ahead of it as it is moved."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return utc_now() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


class World:
    """Make it with `begin`, end it with `close`."""

    def __init__(self, plan: Plan, servers: Mapping[str, str], folder: Path) -> None:
        self.plan = plan
        self.folder = folder / "stand-ins"
        self.clock = Clock()
        self.counts: Counter[str] = Counter()
        self.is_rush = True  # workers that are started begin their loops
        self.told = 0
        self.deaths_at: list[float] = []  # epoch seconds
        self.processes: dict[str, Process] = {}
        self.owners = [new_id("res") for _ in plan.people]
        self.addresses: list[frozenset[str]] = []
        self._servers = servers
        self._name = f"sim_{ulid().lower()}"
        self._town = Town()
        self._burials: set[asyncio.Task[None]] = set()

    async def begin(self, keys_folder: Path) -> None:
        load_or_make(keys_folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(keys_folder / FILE_NAME, self.folder / FILE_NAME)
        self.database = Database(self._servers["mongodb"], self._name)  # of the one who looks on, who never dies
        self.redis = connect(self._servers["redis"])
        self.session = aiohttp.ClientSession()
        await ensure_indexes(self.database, {**outbox.INDEXES, **INDEXES})
        await self._move_in()
        self._serve_callbacks()
        await self._start_stand_ins()
        credentials = load_or_make(self.folder)
        hall = credentials.hall_settings(self.url)
        self._settings = Settings(self._servers, self._name, hall, self._town, self.clock.now, self._note_told)
        self._hall_settings = SimpleNamespace(
            wechat_message_token=credentials.wechat_message_token,
            wechat_message_aes_key=credentials.wechat_message_aes_key,
            wechat_app_id=credentials.wechat_app_id,
            gateway_key=credentials.gateway_key,
            public_url="http://hall.test",
        )
        for name in (*WORKERS, WEB):
            self._start(name)
        await self.script(self.plan.shares)
        await self._script_reports()

    def _note_told(self) -> None:
        self.told += 1

    async def close(self) -> None:
        await asyncio.gather(*self._burials, return_exceptions=True)
        for process in self.processes.values():
            await end(process.tasks)
            await process.end()
        self._server.stop()
        await self._server.close_all_connections()
        self._stand_ins.terminate()
        await asyncio.to_thread(self._stand_ins.wait, 20)
        await self.session.close()
        await self.redis.aclose()
        await self.database.client.drop_database(self._name)
        await self.database.close()

    # --- people ---

    async def _move_in(self) -> None:
        """Make everybody known to the hall and to the vendors."""
        templates = [template.template_id for template in load_templates().wechat]
        kept, grants, devices, preferences = Kept(self.folder), [], [], []
        for person, owner_id in zip(self.plan.people, self.owners, strict=True):
            who = sandbox_people.person(f"sim{self.plan.seed}-{person.number}")
            known = {"name": who.name, "user_id": who.alipay_user_id, "open_id": who.alipay_open_id}
            kept.put("openid", who.openid, who.name)
            kept.put("alipay_user", who.alipay_user_id, known)
            kept.put("alipay_user", who.alipay_open_id, known)
            device = f"device-{owner_id}"
            if "wechat" in person.channels:
                self._town.identities[owner_id, "wechat"] = {"openid": who.openid}
                for template_id in templates if person.grants else ():
                    row = {"openid": who.openid, "template_id": template_id, "left": person.grants, "accepted": False}
                    grants.append(row | {"_id": f"{who.openid}:{template_id}", "changed_at": self.clock.now()})
                    if person.grants_at_wechat is not None:
                        kept.put("wechat_grant", f"{who.openid}/{template_id}", person.grants_at_wechat)
            if "alipay" in person.channels:
                self._town.identities[owner_id, "alipay"] = {"open_id": who.alipay_open_id, "user_id": who.alipay_user_id}
            if "sms" in person.channels:
                self._town.phones[owner_id] = who.phone
            if "app" in person.channels:
                devices.append({"_id": device, "owner_id": owner_id, "platform": "ios", "vendor": "", "at": self.clock.now()})
            preferences.append({"_id": owner_id} | _preferences(person).to_document())
            self.addresses.append(frozenset({who.openid, who.alipay_open_id, who.alipay_user_id, who.phone, device}))
        kept.close()
        for collection, rows in (("grants", grants), ("push_devices", devices), ("push_preferences", preferences)):
            if rows:
                await self.database[collection].insert_many(rows)

    async def _script_reports(self) -> None:
        """Say what the gateway reports of each person's text messages, where it is not the usual."""
        for person, owner_id in zip(self.plan.people, self.owners, strict=True):
            phone = self._town.phones.get(owner_id)
            if phone and (person.reports != ("DELIVRD",) or person.report_repeat > 1):
                script = {"statuses": list(person.reports or ()), "delay_s": person.report_delay_s, "repeat": person.report_repeat}
                await self.sim("reports", channel="sms", to=phone, early=person.report_delay_s == 0, **script)

    def name_of(self, person: int) -> str:
        return f"sim{self.plan.seed}-{person}"

    # --- processes ---

    def _start(self, name: str) -> None:
        process = build(name, self._settings, lambda: self._died(name))
        self.processes[name] = process
        if name == WEB:
            self._application.hall = SimpleNamespace(
                push=process.push, database=process.database, life=process.life, settings=self._hall_settings
            )
        elif self.is_rush:
            process.work()

    def _died(self, name: str) -> None:
        """Called within the dying process: somebody starts another one, and the server lets go of the dead one's locks after a while."""
        self.counts["deaths"] += 1
        self.deaths_at.append(utc_now().timestamp())
        dead = self.processes[name]
        # In a context of its own: a successor must not inherit the dead command's deadline.
        task = asyncio.get_running_loop().create_task(self._succeed(dead), context=Context())
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _succeed(self, dead: Process) -> None:
        self._start(dead.name)
        await asyncio.sleep(HOLDS_LOCKS_S)
        await end(dead.tasks)
        left_open = dead.life.open_transactions
        self.counts["transactions left open"] += len(left_open)
        if left_open:
            await self.database.client.admin.command("killSessions", [{"id": session["id"]} for session in left_open])
        await dead.end()

    async def buried(self) -> None:
        while self._burials:
            await asyncio.gather(*self._burials, return_exceptions=True)

    async def run(self, name: str, work: Callable[[Process], Awaitable[Any]]) -> Any:
        """Let a process do something and return its answer, or None when it died over it or the database was away."""
        process = self.processes[name]
        try:
            return await process.beside(work(process))
        except Died:
            return None
        except asyncio.CancelledError:
            if process.life.is_dead:
                return None
            raise
        except PyMongoError as error:
            self.counts[f"database: {type(error).__name__}"] += 1
            return None
        except BaseExceptionGroup:
            return None

    async def end_of_rush(self) -> None:
        """Let the loops of the workers end, as SIGTERM does."""
        self.is_rush = False
        for process in self.processes.values():
            process.stop.set()
        await self.buried()
        for process in self.processes.values():
            if process.tasks:
                await asyncio.wait(process.tasks, timeout=30)
            await end(process.tasks)

    # --- the hall's address, and the stand-ins ---

    def _serve_callbacks(self) -> None:
        routes = [*gateway_reports.routes, *message_push.routes]
        self._application = WebApplication([(path, mortal(handler)) for path, handler in routes], log_function=lambda _handler: None)
        self._server = HTTPServer(self._application)
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.hall_url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    async def _start_stand_ins(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "HALL_PUBLIC_URL": self.hall_url, "HALL_LOG_LEVEL": "error", "HALL_ENV": "test"}
        self._stand_ins = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--port", str(port), "--data-dir", str(self.folder)],
            cwd=ROOT, env=environment, preexec_fn=die_with_parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                try:
                    return (await asyncio.to_thread(urllib.request.urlopen, f"{self.url}/healthz", None, 2)).close()
                except OSError:
                    await asyncio.sleep(0.1)

    async def script(self, shares: Mapping[str, Any]) -> None:
        await self.sim("mishaps", seed=self.plan.seed, marker=MARKER, slow_s=_SLOW_S, shares=shares)

    async def mishaps(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/_sim/mishaps") as answer:
            return dict(await answer.json())

    async def sent(self, channel: str = "", after: str = "") -> list[dict[str, Any]]:
        """Return what vendors have taken, in order; read from their own file."""

        def read() -> list[dict[str, Any]]:
            kept = Kept(self.folder)
            try:
                return kept.sent(channel or None, None, after or None)
            finally:
                kept.close()

        return await asyncio.to_thread(read)

    async def sim(self, what: str, **body: Any) -> dict[str, Any]:
        async with self.session.post(f"{self.url}/_sim/{what}", json=body) as answer:
            assert answer.status < 500 or what == "wechat/push", await answer.text()
            return {"status": answer.status, **await answer.json()}


def _preferences(person: Person) -> Preferences:
    return Preferences(
        muted={"case": frozenset(person.muted)} if person.muted else {},
        quiet_from=wall_time(21) if person.quiet else None,
        quiet_to=wall_time(9) if person.quiet else None,
        elder_mode=person.elder,
        language=person.language,
    )
