"""Payment notices settled by one process, against the least a notice can cost: verify, decrypt, one majority write.

    python -m bench.notices baseline|call <file>     one side in a process of its own; prints the seconds it took

Both sides work on notices signed alike, as many at once, with keys read once, against the same server; the baseline stores each notice by
itself in a collection without further indexes. `web` is `main.py web` with its ordinary settings over real HTTP, keep-alive connections;
`call` is the same without HTTP, `Payments.receive` in a process of its own. Every settled order is checked afterwards.
"""

import asyncio
import json
import pickle
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from rich.console import Console
from rich.table import Table

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from bench.load import post_all
from bench.processes import Processes, processes, until_up
from payments.model import Attempt, AttemptState, Line, Order, OrderState, Payable
from sandbox.credentials import Credentials, load_or_make
from sandbox.signing import gcm_seal, rsa_sign

AT_ONCE = 64
ROUNDS = 5
NOTICES = 2048
WARM_UP = 256
TARGET = 0.4
DATABASE = "bench_notices"

Message = tuple[dict[str, str], bytes]


# --- orders that wait for their payment, and its notices ---


def waiting_order(own: Credentials, now: datetime, *, order_id: str = "", out_trade_no: str = "") -> Order:
    """Return an order as it stands while its payer is at the cashier."""
    attempt_id = out_trade_no or new_id("pay")
    expires_at = now + timedelta(minutes=30)
    request = {
        "appid": own.wechat_app_id,
        "mchid": own.wechatpay_mch_id,
        "description": "居民身份证丢失补领",
        "out_trade_no": attempt_id,
        "time_expire": expires_at.isoformat(timespec="seconds"),
        "notify_url": "https://hall.example.gov.cn/callbacks/wechatpay",
        "amount": {"total": 4000, "currency": "CNY"},
        "payer": {"openid": "oHkLxtx0vUqe-0123456789abcdef"},
    }
    attempt = Attempt(
        id=attempt_id,
        provider="wechatpay",
        scene="mini_program",
        state=AttemptState.WAITING,
        amount_fen=4000,
        merchant_id=own.wechatpay_mch_id,
        app_id=own.wechat_app_id,
        payer=request["payer"],  # type: ignore[arg-type]
        request=json.dumps(request),
        expires_at=expires_at,
        created_at=now,
    )
    return Order(
        id=order_id or new_id("ord"),
        owner_id=new_id("res"),
        state=OrderState.PAYING,
        title="居民身份证丢失补领",
        amount_fen=4000,
        lines=(Line("居民身份证丢失补领工本费", 4000, "韶关市公安局"),),
        payables=(Payable("case", new_id("case"), 1, "sg-gaj", "居民身份证丢失补领", 4000),),
        expires_at=expires_at,
        created_at=now,
        attempts=(attempt,),
        version=3,
        next_ask_at=expires_at,
    )


def notice_of(own: Credentials, out_trade_no: str) -> Message:
    """Return headers and body of WeChat Pay's notice that an attempt was paid."""
    nonce = "123456789012"
    content = {
        "mchid": own.wechatpay_mch_id,
        "appid": own.wechat_app_id,
        "out_trade_no": out_trade_no,
        "transaction_id": f"4200{out_trade_no[-24:]}",
        "trade_type": "JSAPI",
        "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功",
        "bank_type": "OTHERS",
        "attach": "",
        "success_time": utc_now().isoformat(timespec="seconds"),
        "payer": {"openid": "oHkLxtx0vUqe-0123456789abcdef"},
        "amount": {"total": 4000, "payer_total": 4000, "currency": "CNY", "payer_currency": "CNY"},
    }
    sealed = gcm_seal(own.wechatpay_api_v3_key, nonce, "transaction", json.dumps(content).encode())
    resource = {"original_type": "transaction", "algorithm": "AEAD_AES_256_GCM", "ciphertext": sealed}
    body = json.dumps(
        {
            "id": new_id("n"),
            "create_time": utc_now().isoformat(timespec="seconds"),
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": resource | {"associated_data": "transaction", "nonce": nonce},
        }
    ).encode()
    timestamp = str(int(time.time()))
    return {
        "Wechatpay-Timestamp": timestamp,
        "Wechatpay-Nonce": "593BEC0C930BF1AFEB40B4A08C8FB242",
        "Wechatpay-Signature": rsa_sign(own.wechatpay_private_key, f"{timestamp}\n593BEC0C930BF1AFEB40B4A08C8FB242\n".encode() + body + b"\n"),
        "Wechatpay-Serial": own.wechatpay_public_key_id,
        "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
        "Content-Type": "application/json",
        "Accept": "*/*",
        "User-Agent": "Mozilla/4.0",
        "Request-ID": f"{new_id('r').upper()}-0",
    }, body  # fmt: skip


async def fresh(database: AsyncDatabase[dict[str, Any]], own: Credentials, count: int) -> list[Message]:
    """Store orders that wait for their payment; return their notices, signed now."""
    made = [waiting_order(own, utc_now()) for _ in range(count)]
    await database["orders"].insert_many([order.to_document() for order in made])
    return [notice_of(own, order.attempts[0].id) for order in made]


def write(path: Path, messages: Sequence[Message]) -> Path:
    path.write_bytes(pickle.dumps(messages))
    return path


# --- the sides ---


async def _at_once(count: int, work: Any, messages: Sequence[Message]) -> None:
    waiting = iter(messages)

    async def one() -> None:
        for headers, body in waiting:
            await work(headers, body)

    await asyncio.gather(*(one() for _ in range(count)))


async def _timed(work: Any, messages: Sequence[Message]) -> float:
    await _at_once(AT_ONCE, work, messages[:WARM_UP])
    began = time.perf_counter()
    await _at_once(AT_ONCE, work, messages[WARM_UP:])
    return time.perf_counter() - began


async def _baseline(messages: Sequence[Message]) -> float:
    from app.platforms import rsa
    from app.storage.mongo import Database
    from commands.environment import load_settings
    from payments.providers import wechatpay_v3 as v3

    settings = load_settings()
    database = Database(settings.mongodb_uri, settings.mongodb_database)
    keys = {settings.wechatpay_public_key_id: rsa.load_public_key(settings.wechatpay_public_key)}
    stored = database["bare_notices"]

    async def work(headers: dict[str, str], body: bytes) -> None:
        v3.verify_message(headers, body, keys, utc_now())
        v3.open_notification(body, settings.wechatpay_api_v3_key)
        await stored.insert_one({"headers": headers, "body": body})  # majority and journaled, as everything the hall writes

    took_s = await _timed(work, messages)
    await database.close()
    return took_s


async def _call(messages: Sequence[Message]) -> float:
    from commands.assembly import assemble
    from commands.environment import load_settings, start_logging

    settings = load_settings()
    start_logging(settings, "bench")
    hall = await assemble(settings)

    async def work(headers: dict[str, str], body: bytes) -> None:
        assert (await hall.payments.receive("wechatpay", headers, body)).taken

    took_s = await _timed(work, messages)
    await hall.close()
    return took_s


async def web_seconds(port: int, messages: Sequence[Message]) -> float:
    """Return the seconds a web process takes for these notices. Raises AssertionError for any answer but 204."""
    requests = [as_request(port, "/callbacks/wechatpay", *message) for message in messages]
    began = time.perf_counter()
    await post_all(port, requests, AT_ONCE)
    return time.perf_counter() - began


def as_request(port: int, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


# --- the comparison ---


async def run(mongodb_uri: str, redis_url: str, folder: Path, console: Console) -> None:
    """Compare, show the table."""
    own = load_or_make(folder / "sandbox")
    with processes(folder, mongodb_uri, redis_url, HALL_MONGODB_DATABASE=DATABASE) as hall:
        sides = await _compare(hall, own, mongodb_uri)
    bare = statistics.median(sides["bare"])
    table = Table("side", "notices per second", "range", "ratio", "range of ratios")
    for name, took in sides.items():
        rates = sorted(NOTICES / seconds for seconds in took)
        ratios = sorted(before / seconds for before, seconds in zip(sides["bare"], took, strict=True))
        table.add_row(
            name,
            f"{statistics.median(rates):,.0f}",
            f"{rates[0]:,.0f}-{rates[-1]:,.0f}",
            f"{bare / statistics.median(took):.2f}",
            f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
        )
    console.print(table)
    console.print(
        f"{ROUNDS} rounds of {NOTICES:,} notices each, {AT_ONCE} at once, the sides in turn. bare: verify, decrypt, one majority write."
        f" web: at least {TARGET} of it."
    )


async def _compare(hall: Processes, own: Credentials, mongodb_uri: str) -> dict[str, list[float]]:
    web = await started_web(hall)
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_uri)
    database = client[DATABASE]
    await web_seconds(web, await fresh(database, own, WARM_UP))
    sides: dict[str, list[float]] = {"bare": [], "web": [], "call": []}
    for _ in range(ROUNDS):
        for name, side in (("bare", "baseline"), ("call", "call")):
            file = write(hall.folder / "notices", await fresh(database, own, NOTICES + WARM_UP))
            sides[name].append(float(await hall.answer("-m", "bench.notices", side, str(file))))
            if name == "bare":
                sides["web"].append(await web_seconds(web, await fresh(database, own, NOTICES)))
    settled = {name: await database[name].count_documents({}) for name in ("receipts", "ledger_entries", "events")}
    expected = WARM_UP + ROUNDS * (2 * NOTICES + WARM_UP)
    paid = await database["orders"].count_documents({"state": "paid"})
    assert set(settled.values()) == {expected} == {paid}, (settled, paid, expected)
    await client.close()
    return sides


async def started_web(hall: Processes, **settings: str) -> int:
    """Start a web process, return its port when it is ready."""
    environment = hall.environment | settings
    process = hall.start("main.py", "web", **settings)
    await until_up(f"http://127.0.0.1:{environment['HALL_PORT']}/healthz", process)
    return int(environment["HALL_PORT"])


if __name__ == "__main__":
    _, side_, file_ = sys.argv
    print(asyncio.run({"baseline": _baseline, "call": _call}[side_](pickle.loads(Path(file_).read_bytes()))))
