"""Push put together with the real clients against the stand-ins, for the tests of push and of its handlers."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from app.kernel.clock import utc_now
from app.kernel.events import Event, new_event
from app.kernel.ids import new_id
from app.platforms.alipay import AlipayGateway
from app.platforms.http import HttpClient
from app.platforms.http2 import Http2Client
from app.platforms.wechat import WeChat
from app.storage.mongo import Database, ensure_indexes
from push.channel import Channel
from push.channels.alipay import AlipayMessage
from push.channels.apns import Apns, ApnsKey
from push.channels.jpush import JPush
from push.channels.sms import Sms, SmsGateway
from push.channels.voice import Voice
from push.channels.wechat import WechatSubscribe
from push.channels.wechat_official import WechatOfficial
from push.followers import Followers
from push.grants import Grants
from push.native_options import load_native_options
from push.pauses import Pauses
from push.service import INDEXES, Push
from push.store import Store
from push.templates import FOLDER, MessageTemplates, load_templates
from sandbox.base import Pace
from sandbox.credentials import FILE_NAME
from sandbox.people import person
from sandbox.server import Running, start

FULL: Mapping[str, Any] = {
    "number": "11440200007" + "0" * 20 + "202611230017",
    "query_code": "A7K9PM",
    "item_code": "id_card_lost",
    "item_name": "居民身份证丢失补领",
    "agency_id": "police",
    "agency_name": "韶关市公安局",
    "state": "accepted",
    "version": 3,
    "deadline_on": "2027-01-08",
    "deadline_estimated": True,
    "accept_by_on": "2026-11-30",
    "amount_fen": 4000,
    "reason": "照片太暗，身份证号440203199001010018看不清",
    "missing": [{"key": "photo", "name": "近期照片", "reason": "太暗"}, {"key": "form", "name": "申请表", "reason": "没有签名"}],
    "method": "post",
    "tracking": "EMS1234567890",
    "has_delivery": True,
    "fee_paid": True,
    "days": 15,
    "order_id": "ord_1",
    "opinion": "符合条件",
    "titles": ["身份证工本费"],
    "payables": [{"kind": "case", "id": "case_1"}],
    "expires_at": "2026-11-23T06:30:00Z",
    "receipt_number": "R2026112300000017",
    "provider": "wechatpay",
    "channel": "wechat",
}


class Town:
    """The people of a test: fulfils push.channel.People."""

    def __init__(self) -> None:
        self.identities: dict[tuple[str, str], dict[str, Any]] = {}
        self.phones: dict[str, str] = {}

    async def channel_identity(self, resident_id: str, provider: str) -> dict[str, Any] | None:
        return self.identities.get((resident_id, provider))

    async def phone_of(self, resident_id: str) -> str:
        return self.phones.get(resident_id, "")


@dataclass
class Desk:
    push: Push
    town: Town
    running: Running
    http: aiohttp.ClientSession
    database: Database
    redis: Redis
    out: HttpClient
    residents: int = field(default=0)

    @property
    def settings(self) -> dict[str, str]:
        return self.running.sandbox.credentials.hall_settings(self.running.url)

    async def resident(self, *, wechat: bool = False, alipay: bool = False, phone: bool = False) -> str:
        """Return a new resident whom the platforms know too."""
        owner_id = new_id("res")
        who = person(f"r{owner_id[-10:].lower()}")
        await self.sim("people", {"name": who.name})
        if wechat:
            self.town.identities[owner_id, "wechat"] = {"openid": who.openid}
        if alipay:
            self.town.identities[owner_id, "alipay"] = {"open_id": who.alipay_open_id, "user_id": who.alipay_user_id}
        if phone:
            self.town.phones[owner_id] = who.phone
        return owner_id

    async def sim(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self.http.post(f"{self.running.url}/_sim/{what}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())

    async def sent(self, owner_id: str) -> list[dict[str, Any]]:
        """Return what went out to a resident, on every channel, oldest first."""
        async with self.http.get(f"{self.running.url}/_sim/sent") as answer:
            items = (await answer.json())["items"]
        addresses = {self.town.phones.get(owner_id), owner_id, apple_token(owner_id)}
        for provider in ("wechat", "alipay"):
            addresses |= set((self.town.identities.get((owner_id, provider)) or {}).values())
        return [item for item in items if item["to"] in addresses]

    async def grant(self, owner_id: str, event: str, count: int = 1) -> str:
        """Let a resident accept the template of an event; returns its id."""
        openid = self.town.identities[owner_id, "wechat"]["openid"]
        template_id = next(one.template_id for one in self.push.templates.wechat if event in one.events)
        for _ in range(count):
            await self.push.grants.choose(openid, template_id, "accept", source="client", now=utc_now())
        return template_id

    async def left(self, owner_id: str, template_id: str) -> int:
        openid = self.town.identities[owner_id, "wechat"]["openid"]
        return next(row["left"] for row in await self.push.grants.left(openid) if row["template_id"] == template_id)

    async def deliveries(self, owner_id: str) -> list[dict[str, Any]]:
        return await self.database["deliveries"].find({"owner_id": owner_id}).sort("_id", 1).to_list()

    def event(self, owner_id: str, name: str = "case.accepted", at: datetime | None = None, **data: Any) -> Event:
        kind = name.split(".")[0]
        return new_event(
            name, subject=(kind, new_id(kind[:4])), owner_id=owner_id, data={**FULL, **data}, at=at or utc_now()
        )


def apple_token(owner_id: str) -> str:
    """Return the device token of a resident's iPhone."""
    return hashlib.sha256(owner_id.encode()).hexdigest()


@asynccontextmanager
async def open_desk(database: Database, redis: Redis, keys_file: Path, folder: Path) -> AsyncIterator[Desk]:
    """Serve the stand-ins and put push together."""
    await ensure_indexes(database, INDEXES)
    shutil.copy2(keys_file, folder / FILE_NAME)
    running = await start(0, folder, hall_url="http://127.0.0.1:1", pace=Pace(slow_s=0.2))  # reports find no hall unless a test serves one
    town, out = Town(), HttpClient()
    async with aiohttp.ClientSession() as http:
        push = put_together(database, redis, running, town, out)
        yield Desk(push, town, running, http, database, redis, out)
        await push.stream.close()
        await push.deliveries._channels["apns"]._http.close()
    await out.close()
    await running.stop()


def put_together(database: Database, redis: Redis, running: Running, town: Town, out: HttpClient) -> Push:
    """Return a Push as a process of its own would have it."""
    settings = running.sandbox.credentials.hall_settings(running.url)
    templates = load_templates()
    store, grants = Store(database), Grants(database, templates.wechat)
    pauses = Pauses(database, utc_now)
    usual, sms = usual_channels(out, redis, settings, templates, store, grants, pauses, town, utc_now)
    account = WeChat(
        out,
        redis,
        base_url=settings["HALL_WECHAT_API_URL"],
        app_id=settings["HALL_WECHAT_OFFICIAL_APP_ID"],
        app_secret=settings["HALL_WECHAT_OFFICIAL_APP_SECRET"],
    )
    followers = Followers(database, account, utc_now)
    channels = [
        *usual,
        WechatOfficial(
            account, followers, templates.official, town, pauses, utc_now,
            mini_program=settings["HALL_WECHAT_APP_ID"], public_url="https://hall.example",
        ),  # fmt: skip
        Apns(
            Http2Client(),
            store,
            ApnsKey.from_pem(settings["HALL_APNS_KEY"], settings["HALL_APNS_KEY_ID"], settings["HALL_APNS_TEAM_ID"]),
            utc_now,
            base_url=running.sandbox.apns.url,
            topic=settings["HALL_APNS_TOPIC"],
        ),
    ]
    return Push(
        database, redis, templates, people=town, store=store, grants=grants, channels=channels, sms=sms, clock=utc_now,
        followers=followers,
    )  # fmt: skip


def usual_channels(
    http: HttpClient,
    redis: Redis,
    hall: Mapping[str, str],
    templates: MessageTemplates,
    store: Store,
    grants: Grants,
    pauses: Pauses,
    town: Town,
    clock: Callable[[], datetime],
) -> tuple[list[Channel], SmsGateway]:
    """Return the channels that most residents have, and the gateway of text messages. `hall`: settings that lead to the stand-ins."""
    wechat = WeChat(
        http,
        redis,
        base_url=hall["HALL_WECHAT_API_URL"],
        app_id=hall["HALL_WECHAT_APP_ID"],
        app_secret=hall["HALL_WECHAT_APP_SECRET"],
    )
    alipay = AlipayGateway(
        http,
        gateway_url=hall["HALL_ALIPAY_GATEWAY_URL"],
        app_id=hall["HALL_ALIPAY_APP_ID"],
        app_private_key=hall["HALL_ALIPAY_APP_PRIVATE_KEY"],
        public_key=hall["HALL_ALIPAY_PUBLIC_KEY"],
    )
    jpush = JPush(
        http,
        store,
        load_native_options(FOLDER),
        clock,
        base_url=hall["HALL_JPUSH_URL"],
        app_key=hall["HALL_JPUSH_APP_KEY"],
        master_secret=hall["HALL_JPUSH_MASTER_SECRET"],
        production=False,
        asks_receipts=True,
    )
    sms = SmsGateway(http, hall["HALL_SMS_URL"])
    channels: list[Channel] = [
        WechatSubscribe(wechat, grants, town, pauses, clock),
        AlipayMessage(alipay, templates.alipay, town),
        jpush,
        Sms(sms, town),
        Voice(http, store, town, clock, base_url=hall["HALL_VOICE_URL"]),
    ]
    return channels, sms


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
