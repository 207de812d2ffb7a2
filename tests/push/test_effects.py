"""What each error of a platform causes: by the tables of the channels, as docs/push.md prints them."""

import asyncio
from pathlib import Path

import pytest

from app.kernel.clock import SHANGHAI, utc_now
from app.platforms.http import HttpClient
from app.platforms.wechat import WeChat, WeChatRefused
from app.storage.redis import connect
from push.channel import Then
from push.channels import alipay, apns, email, jpush, sms, voice, wechat, wechat_official
from tests.push.desk import Desk, put_together

TABLES = {
    "wechat": wechat,
    "official": wechat_official,
    "alipay": alipay,
    "apns": apns,
    "app": jpush,
    "email": email,
    "sms": sms,
    "voice": voice,
}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "push.md"


class Refusing:
    """WeChat with a script of answers: an errcode, or 0 for a message that goes out."""

    def __init__(self, *errcodes: int) -> None:
        self.errcodes = list(errcodes)
        self.pages: list[str] = []

    async def access_token(self) -> str:
        return "token"

    async def send_subscribe_message(self, openid: str, template_id: str, data: dict, *, page: str = "") -> str:
        self.pages.append(page)
        errcode = self.errcodes.pop(0) if self.errcodes else 0
        if errcode:
            raise WeChatRefused(errcode, "rejected")
        return f"msg{len(self.pages)}"


async def _told(desk: Desk, client: Refusing, owner_id: str, name: str = "case.accepted") -> dict:
    desk.push.deliveries._channels["wechat"]._client = client
    await desk.push.tell(desk.event(owner_id, name))
    await desk.push.deliver_due()
    return (await desk.deliveries(owner_id))[-1]


@pytest.mark.parametrize(
    ("errcode", "attempts", "left"),
    [
        (43101, [("wechat", "refused", "43101"), ("sms", "sent", "")], 0),
        (47003, [("wechat", "refused", "47003"), ("sms", "sent", "")], 3),
        (40003, [("wechat", "refused", "40003"), ("sms", "sent", "")], 0),
        (45009, [("wechat", "try_later", "45009"), ("sms", "sent", "")], 3),
        (41030, [("wechat", "sent", "")], 2),
        (99999, [("wechat", "refused", "99999"), ("sms", "sent", "")], 3),
    ],
)
async def test_an_error_of_wechat_has_the_effect_of_its_row(desk: Desk, errcode: int, attempts, left: int):
    owner_id = await desk.resident(wechat=True, phone=True)
    template_id = await desk.grant(owner_id, "case.accepted", 3)

    delivery = await _told(desk, Refusing(errcode), owner_id)

    assert [(one["channel"], one["outcome"], one.get("code", "")) for one in delivery["attempts"]] == attempts
    assert await desk.left(owner_id, template_id) == left


async def test_a_quota_that_is_used_up_pauses_wechat_until_midnight_in_shanghai(desk: Desk):
    client = Refusing(45009)
    alone = await desk.resident(wechat=True)
    await desk.grant(alone, "case.accepted", 3)

    first = await _told(desk, client, alone)
    second = await _told(desk, client, alone)

    assert len(client.pages) == 1, "WeChat is not asked again on that day"
    for delivery in (first, second):
        again_at = delivery["next_at"].astimezone(SHANGHAI)
        assert delivery["is_open"] and (again_at.hour, again_at.minute) == (0, 0) and again_at > utc_now()
    desk.push.deliveries._channels["wechat"]._clock = lambda: first["next_at"]
    await desk.push.deliver_due(first["next_at"])
    assert {one["state"] for one in await desk.deliveries(alone)} == {"sent"}


async def test_a_template_refused_three_times_in_a_row_is_left_out(desk: Desk):
    owner_id = await desk.resident(wechat=True, phone=True)
    await desk.grant(owner_id, "case.accepted", 9)
    client = Refusing(47003, 47003, 0, 47003, 47003, 47003)

    channels = [(await _told(desk, client, owner_id))["attempts"][0]["channel"] for _ in range(7)]

    assert channels == ["wechat"] * 6 + ["sms"] and len(client.pages) == 6


async def test_a_dead_token_is_replaced_by_one_of_many_processes(desk: Desk, servers: dict[str, str]):
    """Two processes, ten calls at once, all of them refused with the same token: one asks for another."""
    settings, fetched, https = desk.settings, [], [HttpClient(), HttpClient()]
    redises = [connect(servers["redis"]) for _ in https]
    processes = [
        WeChat(
            http, redis, base_url=settings["HALL_WECHAT_API_URL"], app_id=settings["HALL_WECHAT_APP_ID"],
            app_secret=settings["HALL_WECHAT_APP_SECRET"],
        )
        for http, redis in zip(https, redises, strict=True)
    ]  # fmt: skip
    for process in processes:

        async def fetch(really=process._fetch_token) -> str:
            fetched.append(1)
            return await really()

        process._fetch_token = fetch
    await redises[0].set(processes[0]._token_key, "dead")
    openids = []
    for _ in range(10):
        owner_id = await desk.resident(wechat=True)
        openids.append(desk.town.identities[owner_id, "wechat"]["openid"])
    template = desk.push.templates.wechat[0]
    data = template.fill({"item_name": "x", "phrase": "已受理", "hint": "x", "at": "2026年11月30日", "number_tail": "1"})
    for openid in openids:
        await desk.sim("wechat/grants", {"openid": openid, "template_id": template.template_id, "count": 1})

    sent = await asyncio.gather(
        *(processes[turn % 2].send_subscribe_message(openid, template.template_id, data) for turn, openid in enumerate(openids))
    )

    assert len(set(sent)) == 10 and all(sent) and len(fetched) == 1
    for closable in (*https,):
        await closable.close()
    for redis in redises:
        await redis.aclose()


async def test_a_process_that_gets_the_lock_late_takes_the_token_that_another_has_fetched(desk: Desk, servers: dict[str, str]):
    settings, redis = desk.settings, connect(servers["redis"])
    first, late = (
        WeChat(
            desk.out, redis, base_url=settings["HALL_WECHAT_API_URL"], app_id=settings["HALL_WECHAT_APP_ID"],
            app_secret=settings["HALL_WECHAT_APP_SECRET"],
        )
        for _ in range(2)
    )  # fmt: skip
    await redis.set(first._token_key, "dead")
    fetched = await first.access_token(not_this="dead")

    async def never() -> str:
        raise AssertionError("asked WeChat once more")

    late._fetch_token = never
    # It had looked before the other one stored the token, and found the lock free after it.
    assert await late._fetch_token_once("dead") == fetched
    await redis.aclose()


def test_the_tables_of_the_channels_are_the_ones_that_are_printed():
    text = DOCS.read_text()
    for name, module in TABLES.items():
        for code, effect in module.EFFECTS.items():
            row = f"| {name} | {code} | {effect.means} | {effect.then.value} | {effect.also} | {'yes' if effect.is_alarm else ''} |"
            assert row in text, row
        assert text.count(f"\n| {name} |") >= len(module.EFFECTS)
    assert set(Then) == {one.then for module in TABLES.values() for one in module.EFFECTS.values()}


async def test_a_used_up_quota_and_a_template_left_out_hold_for_all_workers_and_after_a_restart(desk: Desk):
    alone, other = await desk.resident(wechat=True), await desk.resident(wechat=True, phone=True)
    for owner_id in (alone, other):
        await desk.grant(owner_id, "case.accepted", 9)
    await _told(desk, Refusing(47003), other)
    await _told(desk, Refusing(47003), other)
    second = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    asked = second.deliveries._channels["wechat"]._client = Refusing(47003)
    await second.tell(desk.event(other))
    await second.deliver_due()
    assert len(asked.pages) == 1, "the third in a row, of another worker"

    third = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    asked = third.deliveries._channels["wechat"]._client = Refusing()
    await third.tell(desk.event(other))
    await third.deliver_due()
    assert asked.pages == [] and (await desk.deliveries(other))[-1]["channel"] == "sms"

    await desk.database["push_pauses"].delete_many({})
    fourth = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    fourth.deliveries._channels["wechat"]._client = Refusing(45009)
    await fourth.tell(desk.event(alone))
    await fourth.deliver_due()
    fifth = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
    asked = fifth.deliveries._channels["wechat"]._client = Refusing()
    await fifth.tell(desk.event(alone))
    await fifth.deliver_due()
    assert asked.pages == [] and {one["state"] for one in await desk.deliveries(alone)} == {"waiting"}
