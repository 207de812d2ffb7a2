"""Verification keys: public key and certificates side by side, changes without a restart, expiry. Both providers."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from app.platforms.alipay import AlipayGateway
from payments.provider import NotificationRejected, PaymentState, ProviderUnknown
from payments.providers.alipay import Alipay
from payments.providers.wechatpay import WeChatPay
from payments.providers.wechatpay_keys import read_public_keys
from sandbox import certificates, wechatpay_notice
from tests.payments.providers.tries import attempt_of, paid_attempt


class Counting:
    """The real client, counting which paths are asked for; while `gate` is closed no certificates come."""

    def __init__(self, http):
        self.http, self.paths = http, []
        self.gate = asyncio.Event()
        self.gate.set()

    async def request(self, *args, **kwargs):
        self.paths.append(args[2].partition("?")[0].rpartition("//")[2].partition("/")[2])
        if self.paths[-1] == "v3/certificates":
            await self.gate.wait()
        return await self.http.request(*args, **kwargs)

    @property
    def fetched(self):
        return self.paths.count("v3/certificates")


def wechatpay_of(hall, http=None, *, clock=utc_now, public=True, **changes):
    own = hall.credentials
    settings = {
        "base_url": hall.sandbox.url,
        "app_id": own.wechat_app_id,
        "mch_id": own.wechatpay_mch_id,
        "api_v3_key": own.wechatpay_api_v3_key,
        "merchant_serial": own.merchant_serial,
        "merchant_key": own.merchant_private_key,
        "public_key_id": own.wechatpay_public_key_id if public else "",
        "public_key": own.wechatpay_public_key if public else "",
        "clock": clock,
    }
    return WeChatPay(http or hall.http, **settings | changes)


def alipay_of(hall, chain, **changes):
    own = hall.credentials
    gateway = AlipayGateway(
        hall.http,
        gateway_url=f"{hall.sandbox.url}/gateway.do",
        app_id=own.alipay_app_id,
        app_private_key=own.alipay_app_private_key,
        app_cert=chain["app_cert"],
        root_cert=chain["root_cert"],
        public_cert=chain["public_cert"],
        **changes,
    )
    return Alipay(gateway, seller_id=own.alipay_seller_id)


async def notice_of(hall, attempt, kind="TRANSACTION.SUCCESS"):
    """Pay and return (headers, body) of one delivery of the notice, signed as the stand-in is switched now."""
    await hall.sim("pay", provider="wechatpay", out_trade_no=attempt.out_trade_no)
    row = next(n for n in hall.sandbox.sandbox.store.notices(attempt.out_trade_no) if n.kind == kind)
    return wechatpay_notice.build(hall.sandbox.sandbox, row)


# --- WeChat Pay ---


@pytest.mark.parametrize("public", [True, False])
async def test_both_kinds_of_key_verify_during_a_change(hall, public):
    """Answers follow the request's wish; notices come signed with either for days."""
    wechatpay = wechatpay_of(hall, public=public)
    await wechatpay.learn_keys()
    known = wechatpay.keys.at(utc_now())
    own = hall.credentials
    assert set(known) == {own.platform_serial} | ({own.wechatpay_public_key_id} if public else set())
    attempt = await attempt_of(hall, wechatpay)
    assert await wechatpay.create(attempt)
    await hall.sim("storm", keys="certificate")
    notice = wechatpay.read_notification(*await notice_of(hall, attempt), utc_now())
    assert notice.report.state is PaymentState.PAID
    await hall.sim("storm", keys="public_key")
    again = await attempt_of(hall, wechatpay)
    await wechatpay.create(again)
    headers, body = await notice_of(hall, again)
    if public:
        assert wechatpay.read_notification(headers, body, utc_now()).report.state is PaymentState.PAID
    else:
        with pytest.raises(NotificationRejected) as caught:  # no key of that name in the settings, and no guess
            wechatpay.read_notification(headers, body, utc_now())
        assert caught.value.key_unknown


async def test_a_merchant_made_in_public_key_mode_has_no_certificates_and_needs_none(hall):
    await hall.sim("certificates", provider="wechatpay", none=True)
    http = Counting(hall.http)
    wechatpay = wechatpay_of(hall, http)
    await wechatpay.learn_keys()
    assert await wechatpay.create(await attempt_of(hall, wechatpay))
    assert set(wechatpay.keys.at(utc_now())) == {hall.credentials.wechatpay_public_key_id}
    assert http.fetched == 1  # the 404 is an answer: not asked again for twelve hours
    # Without a public key there is nothing to verify with: unclear, never believed.
    with pytest.raises(ProviderUnknown):
        await wechatpay_of(hall, public=False).create(await attempt_of(hall, wechatpay))


async def test_a_rotated_certificate_is_learned_in_passing(hall):
    now = utc_now()
    http = Counting(hall.http)
    wechatpay = wechatpay_of(hall, http, public=False, clock=lambda: now)
    attempt = await attempt_of(hall, wechatpay)
    assert await wechatpay.create(attempt)
    rotated = (await hall.sim("certificates", provider="wechatpay", days=1825))["serial"]
    # Within the same minute nobody may make us fetch again: unclear.
    with pytest.raises(ProviderUnknown):
        await wechatpay.query(attempt)
    now += timedelta(seconds=61)
    assert (await wechatpay.query(attempt)).state is PaymentState.PENDING
    assert set(wechatpay.keys.at(now)) == {rotated, hall.credentials.platform_serial}
    assert http.fetched == 2
    days = REGISTRY.get_sample_value(
        "hall_certificate_days_left", {"provider": "wechatpay", "kind": "platform", "serial": rotated}
    )
    assert 1824 < days <= 1825


async def test_certificates_are_fetched_again_after_twelve_hours_without_anybody_waiting(hall):
    now = utc_now()
    http = Counting(hall.http)
    wechatpay = wechatpay_of(hall, http, public=False, clock=lambda: now)
    attempt = await attempt_of(hall, wechatpay)
    await wechatpay.create(attempt)
    await wechatpay.create(attempt)
    assert http.fetched == 1
    now += timedelta(hours=12)
    hall.sandbox.sandbox.clock = lambda: now.timestamp()
    await hall.sim("faults", provider="wechatpay", mode="none")
    await wechatpay.query(attempt)
    async with asyncio.timeout(2):
        while http.fetched < 2:
            await asyncio.sleep(0.01)


async def test_an_expired_certificate_verifies_nothing(hall):
    now = utc_now()
    wechatpay = wechatpay_of(hall, public=False, clock=lambda: now)
    short = (await hall.sim("certificates", provider="wechatpay", days=1, keep_old=False))["serial"]
    attempt = await attempt_of(hall, wechatpay)
    assert await wechatpay.create(attempt)
    assert set(wechatpay.keys.at(now)) == {short}
    now += timedelta(days=1, minutes=1)
    hall.sandbox.sandbox.clock = lambda: now.timestamp()
    # The stand-in still signs with it; the list is fetched afresh and holds nothing valid.
    with pytest.raises(ProviderUnknown):
        await wechatpay.query(attempt)
    assert wechatpay.keys.at(now) == {}
    await hall.sim("certificates", provider="wechatpay", days=30)
    now += timedelta(minutes=2)
    assert (await wechatpay.query(attempt)).state is PaymentState.PENDING


async def test_an_unknown_serial_never_falls_back_to_the_only_key(hall):
    wechatpay = wechatpay_of(hall, public=False)
    await wechatpay.learn_keys()
    attempt = await attempt_of(hall, wechatpay)
    await wechatpay.create(attempt)
    headers, body = await notice_of(hall, attempt)
    for serial in ("7" * 40, headers["Wechatpay-Serial"].lower(), "PUB_KEY_ID_1", ""):
        with pytest.raises(NotificationRejected):
            wechatpay.read_notification(headers | {"Wechatpay-Serial": serial}, body, utc_now())
    assert wechatpay.read_notification(headers, body, utc_now()).report


async def test_a_certificate_under_another_name_or_key_is_not_taken(hall):
    """Decrypting with the APIv3 key is what authenticates the first one; a wrong key opens nothing."""
    wechatpay = wechatpay_of(hall, public=False, api_v3_key="k" * 32)
    assert await wechatpay.learn_keys()
    assert wechatpay.keys.at(utc_now()) == {}


async def test_a_flood_of_unknown_serials_costs_nothing_and_nobody_waits(hall):
    """All refused while the list of certificates has not come yet; one fetch for all; the next delivery verifies."""
    payments, http = hall.build(certificate_mode=True), Counting(hall.http)
    wechatpay = payments.providers["wechatpay"]
    wechatpay.client._http = http
    order = await hall.order(await hall.resident())
    attempt, _ = await payments.pay(order.id, order.owner_id, provider="wechatpay", scene="mini_program", attempt_id=new_id("pay"))
    rotated = (await hall.sim("certificates", provider="wechatpay", days=1825, keep_old=False))["serial"]
    await hall.sim("storm", keys="certificate")
    headers, body = await notice_of(hall, attempt)
    assert headers["Wechatpay-Serial"] == rotated
    later = utc_now() + timedelta(seconds=61)
    wechatpay.keys._clock = lambda: later
    http.gate.clear()
    fetched = http.fetched
    for number in range(200):
        junk = headers | {"Wechatpay-Serial": f"{number:040X}"}
        assert not (await payments.receive("wechatpay", junk, body)).taken
    assert not (await payments.receive("wechatpay", headers, body)).taken
    http.gate.set()
    await wechatpay.learn_keys()
    assert http.fetched == fetched + 1
    assert (await payments.receive("wechatpay", headers, body)).taken
    assert await hall.state(order) == "paid"


async def test_calls_in_flight_while_the_certificate_changes_share_one_fetch(hall):
    now = utc_now()
    http = Counting(hall.http)
    wechatpay = wechatpay_of(hall, http, public=False, clock=lambda: now)
    attempt = await attempt_of(hall, wechatpay)
    await wechatpay.create(attempt)
    await hall.sim("certificates", provider="wechatpay", days=1825, keep_old=False)
    now += timedelta(seconds=61)
    await hall.sim("faults", provider="wechatpay", mode="slow")
    reports = await asyncio.gather(*(wechatpay.query(attempt) for _ in range(20)))
    assert {report.state for report in reports} == {PaymentState.PENDING}
    assert http.fetched == 2


async def test_who_gives_up_waiting_for_the_keys_does_not_end_the_fetch(hall):
    http = Counting(hall.http)
    wechatpay = wechatpay_of(hall, http, public=False)
    await hall.sim("faults", provider="wechatpay", mode="slow")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wechatpay.learn_keys(), 0.05)
    assert await wechatpay.learn_keys()
    assert wechatpay.keys.at(utc_now()) and http.fetched == 1


def test_several_public_keys_of_the_settings():
    one = "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n"
    assert read_public_keys("PUB_KEY_ID_1", one) == {"PUB_KEY_ID_1": one}
    assert read_public_keys("", "") == read_public_keys("PUB_KEY_ID_1", "") == {}
    both = read_public_keys("PUB_KEY_ID_1, PUB_KEY_ID_2", one + one.replace("AA", "BB"))
    assert list(both) == ["PUB_KEY_ID_1", "PUB_KEY_ID_2"] and "AA" in both["PUB_KEY_ID_1"] and "BB" in both["PUB_KEY_ID_2"]
    with pytest.raises(ValueError, match="2 WeChat Pay public key ids, but 1"):
        read_public_keys("PUB_KEY_ID_1,PUB_KEY_ID_2", one)


# --- Alipay, certificate mode ---


@pytest.fixture
async def chain(hall):
    return (await hall.sim_get("certificates"))["alipay"]


async def test_alipay_certificate_mode_pays_and_refunds(hall, chain):
    from tests.payments.providers.tries import refund_of

    alipay = alipay_of(hall, chain)
    for scene in ("mini_program", "app", "h5", "native"):
        attempt = await paid_attempt(hall, alipay, scene)
        assert (await alipay.query(attempt)).state is PaymentState.PAID
    await alipay.refund(refund_of(hall, alipay, attempt))
    assert (await alipay.query_refund(refund_of(hall, alipay, attempt))).state == "not_found"


async def test_the_request_names_our_certificate_and_the_root(hall, chain):
    alipay = alipay_of(hall, chain)
    params = await alipay.create(await attempt_of(hall, alipay, "app"))
    assert f"app_cert_sn={chain['app_cert_sn']}&" in params["orderStr"] and chain["root_cert_sn"] in params["orderStr"]
    wrong = alipay_of(hall, chain | {"app_cert": chain["public_cert"]})
    with pytest.raises(Exception, match="invalid-cert-sn"):
        await wrong.query(await attempt_of(hall, wrong))


async def test_a_new_alipay_certificate_is_fetched_and_must_chain_to_the_root(hall, chain):
    now = utc_now()
    alipay = alipay_of(hall, chain, clock=lambda: now)
    attempt = await attempt_of(hall, alipay)
    await alipay.create(attempt)
    await hall.sim("certificates", provider="alipay", foreign=True)
    with pytest.raises(ProviderUnknown):  # correctly signed, by somebody the root does not know
        await alipay.query(attempt)
    rotated = (await hall.sim("certificates", provider="alipay", days=100))["serial"]
    with pytest.raises(ProviderUnknown):  # at most one fetch a minute, whoever signs what
        await alipay.query(attempt)
    now += timedelta(seconds=61)
    assert (await alipay.query(attempt)).state is PaymentState.PENDING
    labels = {"provider": "alipay", "kind": "alipay", "serial": rotated}
    assert 99 < REGISTRY.get_sample_value("hall_certificate_days_left", labels) <= 100
    labels = {"provider": "alipay", "kind": "app", "serial": chain["app_cert_sn"]}
    assert 729 < REGISTRY.get_sample_value("hall_certificate_days_left", labels) <= 730


async def test_a_notice_signed_with_a_new_certificate_is_taken_once_it_is_known(hall, chain):
    from sandbox import alipay_trade

    alipay = alipay_of(hall, chain)
    attempt = await attempt_of(hall, alipay)
    await alipay.create(attempt)
    await hall.sim("certificates", provider="alipay", days=100)
    await hall.sim("pay", provider="alipay", out_trade_no=attempt.out_trade_no)
    (row,) = hall.sandbox.sandbox.store.notices(attempt.out_trade_no)
    headers, body = alipay_trade.build_notice(hall.sandbox.sandbox, row)
    with pytest.raises(NotificationRejected, match="signature"):
        alipay.read_notification(headers, body, utc_now())
    assert (await alipay.query(attempt)).state is PaymentState.PAID  # the answer names the certificate, so it is learned
    assert alipay.read_notification(headers, body, utc_now()).report.state is PaymentState.PAID


async def test_a_notice_that_names_an_unknown_certificate_makes_us_fetch_it(hall, chain):
    alipay = alipay_of(hall, chain)
    rotated = (await hall.sim("certificates", provider="alipay"))["serial"]
    body = f"app_id=1&trade_status=TRADE_SUCCESS&alipay_cert_sn={rotated}&sign=AAAA&sign_type=RSA2".encode()
    with pytest.raises(NotificationRejected) as caught:
        alipay.read_notification({}, body, utc_now())
    assert caught.value.key_unknown and caught.value.reason == "unknown_serial"
    assert await alipay.learn_keys() and not await alipay.learn_keys()
    with pytest.raises(NotificationRejected) as caught:
        alipay.read_notification({}, body, utc_now())
    assert not caught.value.key_unknown  # known by now, and still not signed by it


async def test_names_in_forged_notices_do_not_keep_us_from_learning_the_true_one(hall, chain):
    alipay = alipay_of(hall, chain)
    attempt = await attempt_of(hall, alipay)
    await alipay.create(attempt)
    await hall.sim("certificates", provider="alipay", days=100)
    for number in range(100):
        body = f"trade_status=TRADE_SUCCESS&alipay_cert_sn={number:032x}&sign=AAAA&sign_type=RSA2".encode()
        with pytest.raises(NotificationRejected):
            alipay.read_notification({}, body, utc_now())
        alipay.learn_keys_soon()
    reports = await asyncio.gather(*(alipay.query(attempt) for _ in range(10)))
    assert {report.state for report in reports} == {PaymentState.PENDING}


async def test_an_expired_learned_certificate_counts_no_more(hall, chain):
    now = utc_now()
    alipay = alipay_of(hall, chain, clock=lambda: now)
    attempt = await attempt_of(hall, alipay)
    await alipay.create(attempt)
    await hall.sim("certificates", provider="alipay", days=1)
    assert (await alipay.query(attempt)).state is PaymentState.PENDING
    now += timedelta(days=2)
    hall.sandbox.sandbox.clock = lambda: now.timestamp()
    with pytest.raises(ProviderUnknown):
        await alipay.query(attempt)


def test_the_root_bundle_is_read_without_what_cannot_be_read(hall):
    chain = certificates.alipay_chain(SimpleNamespace(**hall.sandbox.sandbox.__dict__))
    assert chain["root_cert"].count("BEGIN CERTIFICATE") == 2 and "_" not in chain["root_cert_sn"]
    from app.platforms import alipay_protocol as protocol

    assert protocol.root_certificate_sn(chain["root_cert"]) == chain["root_cert_sn"]
    assert protocol.certificate_sn(chain["app_cert"]) == chain["app_cert_sn"]
