"""iPhones through Apple: HTTP/2, one token for all processes, what each answer causes, and nothing twice on a screen."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import time
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from app.platforms.http2 import Http2Client
from push.channel import Letter, Refused, TryLater
from push.channels.apns import EFFECTS, TOKEN_S, Apns, ApnsKey, payload
from sandbox import apns as stand_in
from tests.push.desk import Desk, apple_token, put_together


def _key(desk: Desk) -> ApnsKey:
    own = desk.running.sandbox.credentials
    return ApnsKey(own.apns_private, own.apns_key_id, own.apns_team_id)


async def _iphone(desk: Desk, **more: bool) -> str:
    owner_id = await desk.resident(**more)
    await desk.push.put_device(owner_id, apple_token(owner_id), "ios", "apns")
    return owner_id


async def _told(desk: Desk, owner_id: str) -> dict:
    await desk.push.tell(desk.event(owner_id))
    await desk.push.deliver_due()
    return (await desk.deliveries(owner_id))[-1]


def _letter(short: str = "【韶关办事】已受理", delivery_id: str = "dlv_1") -> Letter:
    return Letter(delivery_id, "case.accepted", "res_1", short, {}, "/cases/case_1")


async def test_an_iphone_is_told_through_apple_and_the_other_phones_through_jpush(desk: Desk):
    apple, android = await _iphone(desk), await desk.resident()
    await desk.push.put_device(android, android, "android", "huawei")

    told = [await _told(desk, owner_id) for owner_id in (apple, android)]

    assert [one["channel"] for one in told] == ["apns", "app"]
    (sent,) = await desk.sent(apple)
    assert sent["channel"] == "apns" and "居民身份证丢失补领" in sent["content"] and sent["payload"]["link"].startswith("/cases/")
    assert sent["apns-collapse-id"] == told[0]["_id"] and sent["apns-id"] == told[0]["vendor_id"]
    assert abs(int(sent["apns-expiration"]) - time.time() - 12 * 3600) < 60
    assert desk.running.sandbox.apns.protocols == {"h2c"}


async def test_many_calls_share_one_connection_and_one_token(desk: Desk):
    owners = [await _iphone(desk) for _ in range(30)]
    for owner_id in owners:
        await desk.push.tell(desk.event(owner_id))
    apple = desk.running.sandbox.apns
    before = apple.calls

    await desk.push.deliver_due()

    assert apple.calls - before == 30 and apple.connections <= 2 and len(apple.tokens) == 1
    assert {(await desk.deliveries(owner_id))[0]["state"] for owner_id in owners} == {"sent"}


async def test_processes_that_share_nothing_sign_the_same_token_and_it_changes_every_forty_minutes(desk: Desk):
    own = desk.running.sandbox.credentials
    pem = desk.settings["HALL_APNS_KEY"]
    here, there = (ApnsKey.from_pem(pem, own.apns_key_id, own.apns_team_id) for _ in range(2))
    slice_at = 700_000 * TOKEN_S

    assert here.token(slice_at) == there.token(slice_at + TOKEN_S - 1)
    assert here.token(slice_at) != there.token(slice_at + TOKEN_S) and 20 * 60 <= TOKEN_S <= 60 * 60
    public = own.apns_private.public_key()
    token = here.token(time.time())
    claims = jwt.decode(token, public, algorithms=["ES256"], issuer=own.apns_team_id, options={"require": ["iat", "iss"]})
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": own.apns_key_id} and 0 <= time.time() - claims["iat"] < TOKEN_S
    for _ in range(3):  # as many workers as there are
        other = put_together(desk.database, desk.redis, desk.running, desk.town, desk.out)
        owner_id = await _iphone(desk)
        await other.tell(desk.event(owner_id))
        await other.deliver_due()
        assert (await desk.deliveries(owner_id))[-1]["state"] == "sent"
        await other.deliveries._channels["apns"]._http.close()
    assert len(desk.running.sandbox.apns.tokens) == 1


def test_a_key_of_another_kind_stops_the_start():
    other = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (other.decode(), "no key"):
        with pytest.raises(ValueError):
            ApnsKey.from_pem(pem, "K", "T")


@pytest.mark.parametrize(
    ("status", "reason", "outcome", "is_kept"),
    [
        (410, "Unregistered", "refused", False),
        (410, "ExpiredToken", "refused", False),
        (400, "BadDeviceToken", "refused", False),
        (400, "DeviceTokenNotForTopic", "refused", False),
        (429, "TooManyRequests", "try_later", True),
        (429, "TooManyProviderTokenUpdates", "try_later", True),
        (503, "Shutdown", "try_later", True),
        (500, "InternalServerError", "try_later", True),
        (403, "ExpiredProviderToken", "try_later", True),
        (403, "InvalidProviderToken", "refused", True),
        (413, "PayloadTooLarge", "refused", True),
        (400, "SomethingNew", "refused", True),
    ],
)
async def test_an_answer_of_apple_has_the_effect_of_its_row(desk: Desk, status: int, reason: str, outcome: str, is_kept: bool):
    owner_id = await _iphone(desk, phone=True)
    await desk.sim("apns/devices", {"token": apple_token(owner_id), "status": status, "reason": reason})

    delivery = await _told(desk, owner_id)

    first = delivery["attempts"][0]
    assert (first["channel"], first["outcome"]) == ("apns", outcome)
    assert first["code"] == ("ServiceUnavailable" if status >= 500 else reason)
    assert len(await desk.push.store.devices(owner_id)) == is_kept
    if outcome == "refused":
        assert [item["channel"] for item in await desk.sent(owner_id)] == ["sms"]
    else:
        await desk.sim("apns/devices", {"token": apple_token(owner_id), "status": 200})
        await desk.push.deliver_due(utc_now() + timedelta(seconds=10))
        assert [item["channel"] for item in await desk.sent(owner_id)] == ["apns"]


async def test_a_device_that_registered_after_apple_called_it_gone_stays(desk: Desk):
    owner_id = await _iphone(desk)
    hour_ago = int((time.time() - 3600) * 1000)
    gone = {"token": apple_token(owner_id), "status": 410, "reason": "Unregistered", "timestamp": hour_ago}
    await desk.sim("apns/devices", gone)
    await _told(desk, owner_id)
    assert len(await desk.push.store.devices(owner_id)) == 1

    await desk.sim("apns/devices", gone | {"timestamp": int(time.time() * 1000) + 1000})
    await _told(desk, owner_id)
    assert await desk.push.store.devices(owner_id) == []


async def test_of_two_iphones_one_that_is_gone_does_not_keep_the_other_from_being_told(desk: Desk):
    owner_id = await _iphone(desk)
    dead = apple_token(owner_id + "old")
    await desk.push.put_device(owner_id, dead, "ios", "apns")
    await desk.sim("apns/devices", {"token": dead, "status": 410, "reason": "Unregistered"})

    assert (await _told(desk, owner_id))["state"] == "sent"
    assert [device["_id"] for device in await desk.push.store.devices(owner_id)] == [apple_token(owner_id)]


@pytest.mark.parametrize("mode", ["down", "lost", "garbage"])
async def test_what_breaks_on_the_way_shows_one_notification_or_goes_on(desk: Desk, mode: str):
    owner_id = await _iphone(desk, phone=True)
    await desk.sim("faults", {"provider": "apns", "mode": mode, "count": 1})

    delivery = await _told(desk, owner_id)
    if mode == "garbage":
        assert [(one["channel"], one["outcome"]) for one in delivery["attempts"]] == [("apns", "refused"), ("sms", "sent")]
        return
    assert (delivery["state"], delivery["attempts"][0]["outcome"]) == ("waiting", "try_later")
    await desk.push.deliver_due(utc_now() + timedelta(seconds=10))

    assert (await desk.deliveries(owner_id))[-1]["state"] == "sent"
    assert [item["channel"] for item in await desk.sent(owner_id)] == ["apns"], "a repetition replaces what is on the screen"


async def test_a_connection_that_breaks_under_many_calls_loses_none_and_doubles_none(desk: Desk):
    owners = [await _iphone(desk) for _ in range(9)]
    for owner_id in owners:
        await desk.push.tell(desk.event(owner_id))
    await desk.sim("faults", {"provider": "apns", "mode": "lost", "count": 1})

    for seconds in (0, 10, 60):
        await desk.push.deliver_due(utc_now() + timedelta(seconds=seconds))

    assert {(await desk.deliveries(owner_id))[0]["state"] for owner_id in owners} == {"sent"}
    for owner_id in owners:
        assert len(await desk.sent(owner_id)) == 1


async def test_nobody_there_is_tried_later_and_slowness_holds_up_nobody_else(desk: Desk):
    key, http = _key(desk), Http2Client()
    nowhere = Apns(http, desk.push.store, key, utc_now, base_url="http://127.0.0.1:1", topic="t")
    owner_id = await _iphone(desk)
    envelope = await nowhere.prepare(_letter()) or await nowhere.prepare(
        Letter("dlv_2", "case.accepted", owner_id, "x", {}, "/")
    )
    with pytest.raises(TryLater, match="unreachable"):
        await nowhere.send(envelope)
    await http.close()

    desk.running.sandbox.pace = type(desk.running.sandbox.pace)(slow_s=1)
    channel = desk.push.deliveries._channels["apns"]
    await desk.sim("faults", {"provider": "apns", "mode": "slow", "count": 1})
    began = time.monotonic()
    slow = asyncio.create_task(channel.send(envelope))
    await asyncio.sleep(0.1)
    await channel.send(envelope)
    assert time.monotonic() - began < 0.8 and not slow.done(), "calls on one connection pass each other"
    await slow


async def test_a_wrong_key_is_refused_by_real_cryptography(desk: Desk):
    own, http = desk.running.sandbox.credentials, Http2Client()
    owner_id = await _iphone(desk)
    letter = Letter("dlv_3", "case.accepted", owner_id, "x", {}, "/")
    strange = ec.generate_private_key(ec.SECP256R1())
    for key, topic, reason in (
        (ApnsKey(strange, own.apns_key_id, own.apns_team_id), own.apns_topic, "InvalidProviderToken"),
        (ApnsKey(own.apns_private, "OTHER", own.apns_team_id), own.apns_topic, "InvalidProviderToken"),
        (_key(desk), "com.example", "TopicDisallowed"),
    ):
        channel = Apns(http, desk.push.store, key, utc_now, base_url=desk.running.sandbox.apns.url, topic=topic)
        with pytest.raises(Refused, match=reason):
            await channel.send(await channel.prepare(letter))
    await http.close()


async def test_the_stand_in_is_as_strict_about_tokens_as_apple(desk: Desk):
    apple, key = stand_in.Apns(desk.running.sandbox), _key(desk)
    now = time.time()

    def judged(at: float) -> str:
        headers = {":path": f"/3/device/{'a' * 64}", ":method": "POST", "authorization": f"bearer {key.token(at)}",
                   "apns-topic": desk.running.sandbox.credentials.apns_topic, "apns-push-type": "alert"}  # fmt: skip
        return apple.judge(headers, b'{"aps":{}}')[1].get("reason", "")

    assert judged(now) == ""
    assert judged(now - 2 * TOKEN_S) == "ExpiredProviderToken"
    strange = jwt.encode({"iss": key.team_id, "iat": int(now)}, key.private, algorithm="ES256", headers={"kid": key.key_id})
    apple.tokens.append((strange, now))
    assert judged(now) == "TooManyProviderTokenUpdates"


async def test_over_tls_http_2_is_negotiated_and_a_strange_certificate_is_refused(desk: Desk, tmp_path: Path):
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
        .serial_number(7).not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    pem = tmp_path / "apple.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    tls.set_alpn_protocols(["h2"])
    server = await stand_in.start(desk.running.sandbox, "127.0.0.1", 0, tls=tls)
    apple = desk.running.sandbox.apns
    owner_id = await _iphone(desk)
    letter = Letter("dlv_tls", "case.accepted", owner_id, "x", {}, "/")
    for trust in (ssl.create_default_context(cafile=str(pem)), None):
        http = Http2Client(trust=trust)
        channel = Apns(http, desk.push.store, _key(desk), utc_now, base_url=apple.url, topic=desk.settings["HALL_APNS_TOPIC"])
        envelope = await channel.prepare(letter)
        if trust:
            assert await channel.send(envelope)
        else:
            with pytest.raises(TryLater, match="unreachable"):
                await channel.send(envelope)
        await http.close()
    assert apple.protocols == {"h2"} and apple.calls == 1
    server.close()


@pytest.mark.parametrize("short", ["短", "长" * 3000, "x" * 5000, "\n\"\\" * 3000])
def test_a_text_of_any_length_fits_apples_limit(short: str):
    body = payload(_letter(short))

    shown = json.loads(body)["aps"]["alert"]
    assert len(body) <= 4096 and short.startswith(shown.removesuffix("…")) and (len(shown) > 900 or shown == short)


async def test_only_an_iphone_can_register_with_apple_and_without_apple_nobody_is_asked(desk: Desk):
    for platform, token in (("android", "a" * 64), ("ios", "short"), ("ios", "G" * 64)):
        with pytest.raises(ValidationFailed):
            await desk.push.put_device("res_1", token, platform, "apns")
    owner_id = await _iphone(desk)
    off = Apns(Http2Client(), desk.push.store, None, utc_now, base_url="", topic="")
    assert await off.prepare(Letter("dlv_4", "case.accepted", owner_id, "x", {}, "/")) is None
    assert await desk.push.deliveries._channels["app"].prepare(Letter("dlv_4", "case.accepted", owner_id, "x", {}, "/")) is None


async def test_no_device_token_is_ever_logged(desk: Desk, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    owner_id = await _iphone(desk)
    await _told(desk, owner_id)

    out, err = capfd.readouterr()
    ours = {"httpx", "httpcore", "hpack", "h2", "app", "push"}
    told = out + err + "".join(record.getMessage() for record in caplog.records if record.name.split(".")[0] in ours)
    assert "path=/3/device/ " in out and apple_token(owner_id) not in told


def test_rows_that_drop_a_device_say_so():
    assert {reason for reason, effect in EFFECTS.items() if "dropped" in effect.also} == {
        "Unregistered", "ExpiredToken", "BadDeviceToken", "DeviceTokenNotForTopic",
    }  # fmt: skip
