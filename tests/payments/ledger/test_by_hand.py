"""Payouts and corrections: once per number, never beyond what is there, however many at once."""

import asyncio

import pytest

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.storage.mongo import ensure_indexes
from payments.ledger import store as ledger
from payments.ledger.by_hand import BookingRefused, correct, correctable_accounts, owed_by_provider, pay_out
from payments.ledger.entries import Entry, entry_lines
from payments.ledger.verify import verify

ACCOUNTS = correctable_accounts(["wechatpay", "alipay"], ["sg-gaj", "sg-rsj"])


@pytest.fixture
async def books(database):
    await ensure_indexes(database, ledger.INDEXES)
    return database


async def receive(database, provider, agency, fen, fact="fee"):
    """Book money of an agency at a provider. A fact of no order, so that verification wants none."""
    lines = entry_lines((f"provider:{provider}", fen), (f"agency:{agency}", -fen))
    await ledger.post(database, Entry(f"{fact}:{new_id('x')}", utc_now(), lines, provider=provider, agency_id=agency))


async def payout(database, fen, reference, agency="sg-gaj", provider="wechatpay"):
    return await pay_out(
        database, agency_id=agency, provider=provider, amount_fen=fen, reference=reference, by="clerk.sg-zsj", now=utc_now()
    )


async def mend(database, number="2026-17", *, lines=(("suspense:wechatpay", 100), ("provider:wechatpay", -100)), **changes):
    given = {"reason": "食堂收款，已转出", "by": "clerk.sg-zsj", "agreed_by": "head.sg-zsj", "accounts": ACCOUNTS}
    return await correct(database, number=number, lines=lines, now=utc_now(), **given | changes)


async def test_a_payout_is_booked_once(books):
    await receive(books, "wechatpay", "sg-gaj", 10_000)
    assert await payout(books, 4000, "T-001") is True
    await ledger.seal(books, utc_now())
    assert await payout(books, 4000, "T-001") is False
    assert await ledger.balances(books) == {"provider:wechatpay": 6000, "agency:sg-gaj": -6000}
    for other in ({"fen": 4001}, {"agency": "sg-rsj"}, {"provider": "alipay"}):
        with pytest.raises(ledger.FactBookedDifferently):
            await payout(books, **{"fen": 4000, "reference": "T-001"} | other)
    assert (await verify(books)).problems == []
    rows = await books["audit"].find({"action": "ledger.pay_out"}).to_list()
    assert [(row["actor"], row["subject"]) for row in rows] == [("clerk.sg-zsj", "payout:T-001")]


async def test_the_last_payout_may_be_repeated_when_nothing_is_owed_any_more(books):
    await receive(books, "wechatpay", "sg-gaj", 4000)
    assert [await payout(books, 4000, "T-1x"), await payout(books, 4000, "T-1x")] == [True, False]


async def test_never_more_than_is_owed_or_lies_there(books):
    await receive(books, "wechatpay", "sg-gaj", 3000)
    await receive(books, "alipay", "sg-gaj", 2000)
    await receive(books, "wechatpay", "sg-rsj", 9000)
    for fen, provider in [(5001, "wechatpay"), (2001, "alipay")]:
        with pytest.raises(BookingRefused):
            await payout(books, fen, "T-002", provider=provider)
    for bad in ({"fen": 0}, {"reference": "x"}, {"reference": "a:b:c"}):
        with pytest.raises(BookingRefused):
            await payout(books, **{"fen": 1, "reference": "T-003"} | bad)
    assert await books["ledger_entries"].count_documents({"fact": {"$regex": "^payout"}}) == 0
    assert await books["audit"].count_documents({}) == 0


async def test_payouts_at_once_never_come_to_more_than_is_owed(books):
    await receive(books, "wechatpay", "sg-gaj", 10_000)
    await receive(books, "wechatpay", "sg-rsj", 50_000)
    results = await asyncio.gather(*(payout(books, 3000, f"T-{n:03}") for n in range(8)), return_exceptions=True)
    assert [r for r in results if isinstance(r, Exception) and not isinstance(r, BookingRefused)] == []
    assert results.count(True) == 3
    assert (await ledger.balances(books))["agency:sg-gaj"] == -1000
    assert (await verify(books)).problems == []


async def test_one_reference_at_once_books_once(books):
    await receive(books, "wechatpay", "sg-gaj", 10_000)
    results = await asyncio.gather(*(payout(books, 3000, "T-same") for _ in range(8)))
    assert sorted(results) == [False] * 7 + [True]
    assert await ledger.balances(books) == {"provider:wechatpay": 7000, "agency:sg-gaj": -7000}


async def test_what_an_agency_is_owed_is_known_by_provider(books):
    await receive(books, "wechatpay", "sg-gaj", 3000, fact="settled")
    await receive(books, "alipay", "sg-gaj", 2000, fact="settled")
    await receive(books, "alipay", "sg-rsj", 7000, fact="settled")
    back = entry_lines(("agency:sg-gaj", 500), ("refund_out", -500))
    await ledger.post(books, Entry("refund_reserved:rfd_1", utc_now(), back, provider="alipay", agency_id="sg-gaj"))
    await ledger.seal(books, utc_now())
    await payout(books, 1000, "T-004")
    shares = (("agency:sg-gaj", 40), ("agency:sg-rsj", -40))
    await mend(books, lines=shares, provider="wechatpay")
    found = await owed_by_provider(books, "sg-gaj")
    assert found == {
        "alipay": {"received": 2000, "returned": 500, "paid_out": 0, "corrected": 0, "owed": 1500},
        "wechatpay": {"received": 3000, "returned": 0, "paid_out": 1000, "corrected": -40, "owed": 1960},
    }
    assert -sum(row["owed"] for row in found.values()) == (await ledger.balances(books))["agency:sg-gaj"]


async def test_a_correction_is_booked_once_and_names_who_stands_for_it(books):
    assert [await mend(books), await mend(books), await mend(books, lines=(("provider:wechatpay", -100), ("suspense:wechatpay", 100)))] == [
        True, False, False,
    ]  # fmt: skip
    with pytest.raises(ledger.FactBookedDifferently):
        await mend(books, lines=(("suspense:wechatpay", 101), ("provider:wechatpay", -101)))
    assert await ledger.balances(books) == {"suspense:wechatpay": 100, "provider:wechatpay": -100}
    (row,) = await books["ledger_entries"].find({}).to_list()
    assert row["fact"] == "correction:2026-17" and row["memo"] == "食堂收款，已转出 (clerk.sg-zsj, head.sg-zsj)"
    rows = await books["audit"].find({"action": "ledger.correct"}).sort("actor").to_list()
    assert [row["actor"] for row in rows] == ["clerk.sg-zsj", "head.sg-zsj"] and rows[0]["purpose"] == "食堂收款，已转出"
    assert (await verify(books)).problems == []
    results = await asyncio.gather(*(mend(books, "2026-18") for _ in range(6)))
    assert sorted(results) == [False] * 5 + [True]


@pytest.mark.parametrize(
    "changes",
    [
        {"lines": (("suspense:wechatpay", 100), ("provider:wechatpay", -99))},
        {"lines": (("suspense:wechatpay", 100), ("suspense:wechatpay", -100))},
        {"lines": (("suspense:wechatpay", 0), ("provider:wechatpay", 0))},
        {"lines": (("refund_out", 100), ("provider:wechatpay", -100))},
        {"lines": (("agency:nobody", 100), ("provider:wechatpay", -100))},
        {"lines": (("suspense:wechatpay ", 100), ("provider:wechatpay", -100))},
        {"reason": "  "},
        {"agreed_by": "clerk.sg-zsj"},
        {"number": "wechatpay:2026-11-23:amount"},
    ],
)
async def test_what_is_no_correction(books, changes):
    with pytest.raises(BookingRefused):
        await mend(books, **changes)
    assert await books["ledger_entries"].count_documents({}) == 0
