"""The ledger of grants counts taps, not reports."""

from dataclasses import replace
from datetime import timedelta

from app.kernel.clock import utc_now
from push.grants import Grants
from tests.push.desk import Desk

OPENID = "oABC"


async def _left(grants: Grants, template_id: str, openid: str = OPENID) -> int:
    return next(row["left"] for row in await grants.left(openid) if row["template_id"] == template_id)


async def test_one_tap_reported_by_client_and_wechat_counts_once(desk: Desk):
    grants, now = desk.push.grants, utc_now()
    template_id = next(iter(grants.templates))

    await grants.choose(OPENID, template_id, "accept", source="client", now=now)
    await grants.choose(OPENID, template_id, "accept", source="event", now=now + timedelta(seconds=1))
    assert await _left(grants, template_id) == 1

    await grants.choose(OPENID, template_id, "accept", source="event", now=now + timedelta(seconds=2))
    await grants.choose(OPENID, template_id, "accept", source="client", now=now + timedelta(seconds=3))
    assert await _left(grants, template_id) == 2

    # A report that comes an hour later is another tap.
    await grants.choose(OPENID, template_id, "accept", source="client", now=now + timedelta(seconds=4))
    await grants.choose(OPENID, template_id, "accept", source="event", now=now + timedelta(hours=1))
    assert await _left(grants, template_id) == 4


async def test_rejecting_and_banned_give_nothing_and_take_nothing(desk: Desk):
    grants, now = desk.push.grants, utc_now()
    template_id = next(iter(grants.templates))
    await grants.choose(OPENID, template_id, "accept", source="client", now=now)

    for choice in ("reject", "ban", "filter"):
        await grants.choose(OPENID, template_id, choice, source="client", now=now)
    assert await _left(grants, template_id) == 1

    await grants.take_back(OPENID, template_id, now=now)
    assert await _left(grants, template_id) == 0


async def test_a_long_term_template_is_not_used_up_and_goes_first(desk: Desk):
    short = desk.push.templates.wechat
    long = replace(short[0], template_id="long_term_template_0000001", long_term=True, events=short[0].events)
    grants, now = Grants(desk.database, [short[0], long]), utc_now()
    event = long.events[0]
    await grants.choose(OPENID, short[0].template_id, "accept", source="client", now=now)
    assert await grants.best_for(OPENID, event) == short[0]

    await grants.choose(OPENID, long.template_id, "accept", source="client", now=now)
    assert await grants.best_for(OPENID, event) == long
    await desk.database.transaction(lambda session: grants.used(OPENID, long.template_id, session))
    assert await _left(grants, long.template_id) == 1

    await grants.choose(OPENID, long.template_id, "reject", source="client", now=now)
    assert await grants.best_for(OPENID, event) == short[0]


async def test_a_grant_given_after_the_question_survives_the_refusal(desk: Desk):
    grants, now = desk.push.grants, utc_now()
    template_id = next(iter(grants.templates))
    await grants.choose(OPENID, template_id, "accept", source="client", now=now)

    await desk.database.transaction(
        lambda session: grants.refused(OPENID, template_id, asked_at=now - timedelta(seconds=1), session=session)
    )
    assert await _left(grants, template_id) == 1
