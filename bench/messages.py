"""Messages sent by one worker, against the least that can cost: the same POSTs by a bare aiohttp session.

    python -m bench.messages gateway <port>              serve the gateway for text messages: reads a request, answers it, nothing else
    python -m bench.messages prepare <file>              residents and deliveries of all rounds; writes what is to be sent
    python -m bench.messages bare|worker <port> <round> <file>   one side; prints the seconds and CPU seconds it took

Both sides send the same texts to the same gateway, as many at once (the places of the ordinary lane). The worker is push as
commands/assembly.py puts it together, with its ordinary settings but a rate of text messages that never binds: for each message it claims the
delivery, reads the person's wishes, looks for their WeChat, Alipay, app and phone, asks for a token of the rate, notes `sending` before the
call and the outcome after it, majority and journaled. After each round every delivery is looked at, and the gateway has got each id once.
"""

import asyncio
import json
import pickle
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from pymongo import AsyncMongoClient
from rich.console import Console
from rich.table import Table

from app.kernel.clock import utc_now
from app.kernel.events import new_event
from app.kernel.ids import new_id
from bench.processes import processes, until_up
from commands.servers import free_port
from push.lanes import ORDINARY, PLACES

ROUNDS = 5
MESSAGES = 2048
WARM_UP = 256
DATABASE = "bench_messages"
EVENT = "case.accepted"
_DATA = {
    "number": "11440200007" + "0" * 20 + "202611230017",
    "query_code": "A7K9PM",
    "item_code": "id_card_lost",
    "item_name": "居民身份证丢失补领",
    "agency_id": "sg-gaj",
    "agency_name": "韶关市公安局",
    "state": "accepted",
    "deadline_on": "2027-01-08",
}
_NEVER_BINDS = 1e6


# --- the gateway ---


class Gateway(asyncio.Protocol):
    seen: dict[str, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._left = b""

    def data_received(self, data: bytes) -> None:
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            head = self._left[:end].lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if len(self._left) < end + 4 + length:
                return
            body, self._left = self._left[end + 4 : end + 4 + length], self._left[end + 4 + length :]
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"get /seen"):
            answer = orjson.dumps({"ids": len(self.seen), "most": max(self.seen.values(), default=0)})
            self.seen.clear()
        elif body:
            request_id = orjson.loads(body)["request_id"]
            self.seen[request_id] = self.seen.get(request_id, 0) + 1
            answer = orjson.dumps({"message_id": f"m{request_id}"})
        else:
            answer = b"{}"
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Gateway, "127.0.0.1", port)
    await server.serve_forever()


# --- what is to be sent ---


async def _prepare(file: Path) -> None:
    from app.identity import store
    from commands.assembly import assemble
    from commands.environment import load_settings, start_logging
    from push.deliveries import new_delivery

    settings = load_settings()
    start_logging(settings, "bench")
    hall = await assemble(settings)
    now, rounds = utc_now(), []
    spec = hall.push.templates.specs[EVENT]
    for number in range(ROUNDS + 1):
        residents, rows, bodies = [], [], []
        for place in range(MESSAGES if number else WARM_UP):
            resident_id, phone = new_id("res"), f"138{number:02d}{place:06d}"
            sealed = store.sealed_fields(hall.keys, resident_id, {"phone": phone})
            residents.append(store.new_resident(resident_id, now) | {"level": 2} | sealed)
            event = new_event(EVENT, subject=("case", new_id("case")), owner_id=resident_id, data=_DATA, at=now)
            rendered = hall.push.templates.render(event, "zh")
            # Of a round that is not due yet: each has its own hour.
            rows.append(new_delivery(new_id("msg"), resident_id, event, spec, rendered, now) | {"round": number, "is_open": False})
            body = {"request_id": rows[-1]["_id"], "phone": phone, "template": EVENT, "params": {}, "text": rendered.short}
            bodies.append(orjson.dumps(body))
        await hall.database["residents"].insert_many(residents)
        await hall.database["deliveries"].insert_many(rows)
        rounds.append(bodies)
    file.write_bytes(pickle.dumps(rounds))
    await hall.close()


# --- the two sides ---


async def _bare(port: int, number: int, file: Path) -> None:
    bodies = iter(pickle.loads(file.read_bytes())[number])
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def place() -> None:
            for body in bodies:
                async with session.post(f"http://127.0.0.1:{port}/messages", data=body, headers=headers) as answer:
                    assert answer.status == 200 and orjson.loads(await answer.read())["message_id"]

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(place() for _ in range(PLACES[ORDINARY])))
        print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]))


async def _worker(_port: int, number: int, _file: Path) -> None:
    from commands.assembly import assemble
    from commands.environment import load_settings, start_logging
    from push.lanes import Rates

    settings = load_settings()
    start_logging(settings, "worker")
    hall = await assemble(settings)
    hall.push.deliveries._sending.rates = Rates(hall.redis, {"sms": _NEVER_BINDS})
    await hall.database["deliveries"].update_many({"round": number}, {"$set": {"is_open": True, "next_at": utc_now()}})
    began, cpu = time.perf_counter(), time.process_time()
    while await hall.push.deliver_due(utc_now(), ORDINARY):
        pass
    took = [time.perf_counter() - began, time.process_time() - cpu]
    await hall.close()
    print(json.dumps(took))


# --- the comparison ---


async def run(mongodb_uri: str, redis_url: str, folder: Path, console: Console) -> None:
    """Compare, show the table."""
    file, port = folder / "messages", free_port()
    sides: dict[str, list[list[float]]] = {"bare": [], "worker": []}
    with processes(folder, mongodb_uri, redis_url, HALL_MONGODB_DATABASE=DATABASE, HALL_SMS_URL=f"http://127.0.0.1:{port}") as hall:
        await asyncio.to_thread(hall.start("main.py", "migrate", "--with-demo").wait)
        await asyncio.to_thread(hall.start("-m", "bench.messages", "prepare", str(file)).wait)
        gateway = hall.start("-m", "bench.messages", "gateway", str(port))
        await until_up(f"http://127.0.0.1:{port}/", gateway)
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_uri)
        for number in range(ROUNDS + 1):
            for side in sides:
                took = json.loads(await hall.answer("-m", "bench.messages", side, str(port), str(number), str(file)))
                count = MESSAGES if number else WARM_UP
                assert (seen := await _seen(port)) == {"ids": count, "most": 1}, (side, count, seen)
                if number:
                    sides[side].append([took[0] / count, took[1] / count])
            assert await client[DATABASE]["deliveries"].count_documents({"round": number, "state": "sent", "channel": "sms"}) == count
        await client.close()
    table = Table("side", "messages per second", "range", "ratio", "range of ratios", "CPU us each")
    ratios = sorted(theirs[0] / ours[0] for theirs, ours in zip(sides["bare"], sides["worker"], strict=True))
    for side, shown in (("bare", ("1.00", "")), ("worker", (f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}-{ratios[-1]:.2f}"))):
        rates = sorted(1 / seconds for seconds, _cpu in sides[side])
        cpu_us = statistics.median(cpu for _seconds, cpu in sides[side]) * 1e6
        table.add_row(side, f"{statistics.median(rates):,.0f}", f"{rates[0]:,.0f}-{rates[-1]:,.0f}", *shown, f"{cpu_us:,.0f}")
    console.print(table)
    console.print(
        f"{ROUNDS} rounds of {MESSAGES:,} text messages each, {PLACES[ORDINARY]} at once, the sides in turn. bare: an aiohttp session that posts the same."
    )


async def _seen(port: int) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/seen") as answer:
        return orjson.loads(await answer.read())


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "gateway":
        asyncio.run(_serve(int(words[0])))
    elif what == "prepare":
        asyncio.run(_prepare(Path(words[0])))
    else:
        asyncio.run((_bare if what == "bare" else _worker)(int(words[0]), int(words[1]), Path(words[2])))
