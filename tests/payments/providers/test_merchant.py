"""The merchant's side of WeChat Pay: its certificates and their change, the standby host, abnormal refunds paid out another way."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys
from cryptography.x509.oid import NameOID
from prometheus_client import REGISTRY
from wechatpayv3 import utils as oracle

from app.kernel.clock import utc_now
from app.platforms import rsa
from commands.servers import free_port
from payments.provider import (
    BankCard,
    PaymentState,
    ProviderNotSent,
    ProviderRefused,
    ProviderUnknown,
    RefundProviderState,
)
from payments.providers import wechatpay_v3 as v3
from payments.providers.wechatpay_merchant import read_signers
from sandbox import certificates
from tests.payments.providers.test_keys import wechatpay_of
from tests.payments.providers.tries import attempt_of, paid_attempt, refund_of


def made_key():
    key = rsa_keys.generate_private_key(public_exponent=65537, key_size=2048)
    return key, key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def certificate_of(key, serial: str, since: datetime, until: datetime) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "merchant")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int(serial, 16))
        .not_valid_before(since)
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def second():
    return made_key()


OLD, NEW = "1" * 40, "2" * 40


# --- certificates ---


def test_settings_hold_one_signer_or_several(second):
    first, first_pem = made_key()
    second_key, second_pem = second
    now = datetime(2026, 11, 1, tzinfo=UTC)
    (one,) = read_signers(OLD, first_pem)
    assert (one.serial, one.key.private_numbers()) == (OLD, first.private_numbers())
    old_cert = certificate_of(first, OLD, now - timedelta(days=1800), now + timedelta(days=25))
    new_cert = certificate_of(second_key, NEW, now, now + timedelta(days=1825))
    for keys in (first_pem + second_pem, (first_pem + second_pem).replace("\n", "\\n")):
        a, b = read_signers(f"{OLD}, {NEW}", keys, new_cert + old_cert)
        assert (a.serial, b.serial, a.until, b.since) == (OLD, NEW, now + timedelta(days=25), now)
    with pytest.raises(ValueError, match="2 merchant serials, but 1"):
        read_signers(f"{OLD},{NEW}", first_pem)
    with pytest.raises(ValueError, match="another serial"):
        read_signers(NEW, second_pem, old_cert)
    with pytest.raises(ValueError, match="does not fit its key"):
        read_signers(OLD, second_pem, old_cert)


async def test_the_next_certificate_takes_over_when_the_first_ends(hall, second):
    """Both are in the settings during the change; no restart, no moment without a valid one."""
    own, (new_key, new_pem) = hall.credentials, second
    now = utc_now().replace(microsecond=0)
    certificates.set_merchant_key(hall.sandbox.sandbox, NEW, new_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode())  # fmt: skip
    old_key = rsa.load_private_key(own.merchant_private_key)
    wechatpay = wechatpay_of(
        hall,
        clock=lambda: now,
        merchant_serial=f"{own.merchant_serial},{NEW}",
        merchant_key=own.merchant_private_key + new_pem,
        merchant_cert=certificate_of(old_key, own.merchant_serial, now - timedelta(days=1800), now + timedelta(days=30))
        + certificate_of(new_key, NEW, now - timedelta(days=1), now + timedelta(days=1824)),
    )
    attempt = await attempt_of(hall, wechatpay, expires_at=now + timedelta(days=6))
    assert await wechatpay.create(attempt)
    assert wechatpay.client.signer.serial == own.merchant_serial
    left = {"provider": "wechatpay", "kind": "merchant"}
    assert REGISTRY.get_sample_value("hall_certificate_days_left", left | {"serial": own.merchant_serial}) == 30
    assert REGISTRY.get_sample_value("hall_certificate_days_left", left | {"serial": NEW}) == 1824
    certificates.set_merchant_key(hall.sandbox.sandbox, own.merchant_serial, "")  # ended: the provider takes it no more
    with pytest.raises(ProviderRefused, match="SIGN_ERROR"):
        await wechatpay.query(attempt)
    now += timedelta(days=30)
    hall.sandbox.sandbox.clock = lambda: now.timestamp()
    assert (await wechatpay.query(attempt)).state in (PaymentState.PENDING, PaymentState.CLOSED)
    assert wechatpay.client.signer.serial == NEW
    params = v3.pay_params("mini_program", app_id="a", prepay_id="p", key=wechatpay.client.signer.key, timestamp=1, nonce="n")
    assert rsa.is_signed(new_key.public_key(), b"a\n1\nn\nprepay_id=p\n", params["paySign"])


# --- the standby host ---


@pytest.fixture
async def sick():
    """A host that answers every call with the status it is told, and counts them."""
    seen, answer = [], {"status": 503}

    async def take(request):
        seen.append((request.method, request.path_qs, await request.read()))
        if answer["status"] == 0:
            request.transport.close()
        return web.Response(status=answer["status"] or 500, text='{"code":"SYSTEM_ERROR"}', content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", answer, seen
    await runner.cleanup()


async def everything(hall, wechatpay):
    """Every call once, through to the end; returns nothing, raises when one fails."""
    attempt = await paid_attempt(hall, wechatpay)
    assert (await wechatpay.query(attempt)).state is PaymentState.PAID
    refund = refund_of(hall, wechatpay, attempt)
    first = await wechatpay.refund(refund)
    assert (await wechatpay.refund(refund)).provider_refund_no == first.provider_refund_no
    await wechatpay.query_refund(refund)
    other = await attempt_of(hall, wechatpay)
    await wechatpay.create(other)
    await wechatpay.close(other)
    assert (await wechatpay.query(other)).state is PaymentState.CLOSED


@pytest.mark.parametrize("status", [500, 503, 0])
async def test_what_the_first_host_does_not_do_goes_to_the_standby_host(hall, sick, status):
    url, answer, seen = sick
    answer["status"] = status
    now = utc_now()
    wechatpay = wechatpay_of(hall, base_url=url, standby_url=hall.sandbox.url, clock=lambda: now)
    await wechatpay.learn_keys()
    await everything(hall, wechatpay)
    tried = len(seen)
    assert tried <= 2  # once, or twice on a connection that broke: then the standby host comes first for a minute
    now += timedelta(seconds=61)
    await wechatpay.query(await attempt_of(hall, wechatpay))
    assert len(seen) > tried


async def test_a_host_that_cannot_be_reached_is_passed_over(hall):
    wechatpay = wechatpay_of(hall, base_url=f"http://127.0.0.1:{free_port()}", standby_url=hall.sandbox.url)
    await everything(hall, wechatpay)


async def test_the_first_host_comes_back_when_the_standby_fails_too(hall, sick):
    url, _, seen = sick
    wechatpay = wechatpay_of(hall, base_url=hall.sandbox.url, standby_url=url)
    attempt = await paid_attempt(hall, wechatpay)
    await hall.sim("faults", provider="wechatpay", mode="down", count=2)  # the call and its one repetition
    with pytest.raises(ProviderUnknown):  # both hosts away; one of them may have done it
        await wechatpay.query(attempt)
    assert seen
    assert (await wechatpay.query(attempt)).state is PaymentState.PAID


async def test_no_standby_for_what_a_host_has_answered_or_has_no_time_left_for(hall, sick):
    url, _, seen = sick
    wechatpay = wechatpay_of(hall, standby_url=url)
    await hall.sim("faults", provider="wechatpay", mode="rate_limited", count=1)
    with pytest.raises(ProviderNotSent):
        await wechatpay.query(await attempt_of(hall, wechatpay))
    hasty = wechatpay_of(hall, standby_url=url, timeout_s=0.1)
    await hall.sim("faults", provider="wechatpay", mode="slow", count=1)
    with pytest.raises(ProviderUnknown):
        await hasty.query(await attempt_of(hall, hasty))
    assert seen == []


# --- abnormal refunds ---


async def abnormal(hall, wechatpay):
    attempt = await paid_attempt(hall, wechatpay)
    refund = refund_of(hall, wechatpay, attempt)
    await hall.sim("refunds", mode="abnormal", seconds=0)
    await wechatpay.refund(refund)
    report = await wechatpay.query_refund(refund)
    assert report.state is RefundProviderState.ABNORMAL
    return refund, report.provider_refund_no


CARD = BankCard("ICBC_DEBIT", "6222020000000000000", "张三")


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("card", [None, CARD])
async def test_an_abnormal_refund_is_paid_out_another_way(hall, public, card):
    wechatpay = wechatpay_of(hall, public=public)
    refund, refund_id = await abnormal(hall, wechatpay)
    report = await wechatpay.apply_abnormal(refund, refund_id, card)
    assert (report.state, report.amount_fen) == (RefundProviderState.PROCESSING, 4000)
    with pytest.raises(ProviderRefused, match="INVALID_REQUEST"):  # asked twice: it is on its way already
        await wechatpay.apply_abnormal(refund, refund_id, card)
    async with asyncio.timeout(5):
        while (await wechatpay.query_refund(refund)).state is not RefundProviderState.SUCCEEDED:
            await asyncio.sleep(0.02)


async def test_an_abnormal_refund_in_trouble(hall):
    wechatpay = wechatpay_of(hall)
    refund, refund_id = await abnormal(hall, wechatpay)
    await hall.sim("faults", provider="wechatpay", mode="lost", count=1)  # done, the answer lost; the repetition is refused
    with pytest.raises((ProviderUnknown, ProviderRefused)):
        await wechatpay.apply_abnormal(refund, refund_id)
    assert (await wechatpay.query_refund(refund)).state is not RefundProviderState.ABNORMAL
    with pytest.raises(ProviderRefused):
        await hall.payments.providers["alipay"].apply_abnormal(refund, refund_id)
    with pytest.raises(ProviderNotSent):  # nothing to seal a card with
        await wechatpay_of(hall, public=False).apply_abnormal(refund, refund_id, CARD)


def test_sealed_fields_are_what_the_published_package_makes_and_reads(second):
    key, pem = second
    body = v3.abnormal_refund("rfd_1", key=key.public_key(), bank=CARD.bank, account=CARD.account, holder=CARD.holder)
    sent = orjson.loads(body)
    assert (sent["out_refund_no"], sent["type"], sent["bank_type"]) == ("rfd_1", "USER_BANK_CARD", "ICBC_DEBIT")
    assert oracle.rsa_decrypt(sent["bank_account"], key) == CARD.account
    assert oracle.rsa_decrypt(sent["real_name"], key) == CARD.holder
    assert v3.abnormal_refund("rfd_1") == b'{"out_refund_no":"rfd_1","type":"MERCHANT_BANK_CARD"}'
    assert rsa.unseal(rsa.load_private_key(pem), rsa.seal(key.public_key(), "张三")) == "张三"
    with pytest.raises(ValueError, match="needs its bank"):
        v3.abnormal_refund("rfd_1", account="1", holder="张三", bank="ICBC_DEBIT")
    assert CARD.account not in repr(CARD) and CARD.holder not in repr(CARD)
