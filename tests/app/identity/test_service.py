"""Who is who: sign-in through the platforms' wire protocols, rotating tokens, joining, codes used once."""

import asyncio
from datetime import timedelta

import aiohttp
import pytest

import sandbox.server
from app.identity import errors
from app.identity.realname import RealName
from app.identity.service import Identity
from app.identity.sms_codes import SmsCodes, SmsLimits
from app.identity.staff import StaffAccounts
from app.identity.store import INDEXES
from app.kernel.clock import utc_now
from app.kernel.errors import ProviderUnavailable, RateLimited, ValidationFailed
from app.kernel.ids import ulid
from app.platforms.alipay import AlipayGateway
from app.platforms.http import HttpClient
from app.platforms.wechat import WeChat
from app.storage.mongo import ensure_indexes
from commands.story import id_number
from config.settings import read_settings


@pytest.fixture(scope="session")
async def stand_ins(tmp_path_factory):
    running = await sandbox.server.start(0, tmp_path_factory.mktemp("sandbox"), hall_url="http://127.0.0.1:9")
    yield running
    await running.stop()


@pytest.fixture
async def sent_codes():
    return {}


@pytest.fixture
async def identity(database, keys, redis, stand_ins, sent_codes):
    await ensure_indexes(database, INDEXES)
    settings = read_settings(stand_ins.sandbox.credentials.hall_settings(stand_ins.url), env_file=None)
    http = HttpClient()

    async def send(phone, code, _purpose):
        sent_codes[phone] = code

    yield Identity(
        database,
        keys,
        wechat=WeChat(
            http,
            redis,
            base_url=settings.wechat_api_url,
            app_id=settings.wechat_app_id,
            app_secret=settings.wechat_app_secret,
        ),
        alipay=AlipayGateway(
            http,
            gateway_url=settings.alipay_gateway_url,
            app_id=settings.alipay_app_id,
            app_private_key=settings.alipay_app_private_key,
            public_key=settings.alipay_public_key,
            aes_key=settings.alipay_aes_key,
        ),
        sms_codes=SmsCodes(database, keys, SmsLimits(0, 1000, 1000), send),
        realname=RealName(http, settings.realname_url, timeout_s=1),
    )
    await http.close()


def a_name():
    return ulid().lower()


async def session_of(identity, login):
    return await identity.sessions.authenticate(login.access_token)


async def test_the_same_wechat_person_is_the_same_resident_also_when_signing_in_twice_at_once(identity):
    name = a_name()
    logins = await asyncio.gather(*(identity.login_wechat(f"sim-{name}") for _ in range(5)))
    assert len({login.resident.id for login in logins}) == 1
    assert sum(login.is_new for login in logins) == 1
    assert logins[0].resident.level == 1


@pytest.mark.parametrize(
    "ways",
    [("user_id", "both", "open_id"), ("both", "user_id"), ("user_id", "both", "user_id", "open_id"), ("open_id", "both", "user_id")],
    ids="-".join,
)
async def test_an_alipay_person_stays_the_same_while_the_app_moves_from_user_id_to_open_id(identity, stand_ins, ways):
    name, seen = a_name(), []
    async with aiohttp.ClientSession() as http:
        for ids in ways:
            (await http.post(f"{stand_ins.url}/_sim/alipay/ids", json={"ids": ids})).raise_for_status()
            seen.append(await identity.login_alipay(f"sim-{name}"))
        await http.post(f"{stand_ins.url}/_sim/alipay/ids", json={"ids": "both"})
    assert len({login.resident.id for login in seen}) == 1
    assert [login.is_new for login in seen] == [True] + [False] * (len(ways) - 1)
    binding = await identity.channel_identity(seen[0].resident.id, "alipay")
    assert binding["user_id"] and binding["open_id"], "each sign-in adds what it brings"


async def test_a_code_the_platform_does_not_know_is_refused(identity):
    with pytest.raises(Exception) as caught:
        await identity.login_wechat("nonsense")
    assert (caught.value.status, caught.value.code) == (401, "auth.login_refused")
    with pytest.raises(Exception) as caught:
        await identity.login_alipay("nonsense")
    assert (caught.value.status, caught.value.code) == (401, "auth.login_refused")


async def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(identity):
    login = await identity.login_wechat(f"sim-{a_name()}")
    renewed = await identity.sessions.refresh(login.refresh_token)
    assert (await session_of(identity, renewed)).resident_id == login.resident.id
    with pytest.raises(errors.RefreshReused):
        await identity.sessions.refresh(login.refresh_token)
    with pytest.raises(errors.TokenInvalid):
        await identity.sessions.refresh(renewed.refresh_token)
    with pytest.raises(errors.TokenInvalid):
        await identity.sessions.authenticate(renewed.access_token)


async def test_of_two_who_use_a_refresh_token_at_once_one_gets_through(identity):
    login = await identity.login_wechat(f"sim-{a_name()}")
    results = await asyncio.gather(*(identity.sessions.refresh(login.refresh_token) for _ in range(2)), return_exceptions=True)
    assert sum(isinstance(result, errors.RefreshReused) for result in results) == 1


async def test_a_token_is_good_for_its_own_purpose_only(identity, keys):
    login = await identity.login_wechat(f"sim-{a_name()}")
    page = identity.sessions.page_token(login)
    assert (await identity.sessions.authenticate(page, page=True)).resident_id == login.resident.id
    for token, as_page in ((page, False), (login.access_token, True), ("x.y.z", False), (login.access_token[:-4] + "AAAA", False)):
        with pytest.raises(errors.TokenInvalid):
            await identity.sessions.authenticate(token, page=as_page)


async def test_logging_out_ends_the_tokens(identity):
    login = await identity.login_wechat(f"sim-{a_name()}")
    await identity.sessions.end(login.resident.id, login.session_id)
    with pytest.raises(errors.TokenInvalid):
        await identity.sessions.authenticate(login.access_token)


async def test_a_phone_joins_the_sms_account_and_the_wechat_account(identity, sent_codes):
    name = a_name()
    wechat = await identity.login_wechat(f"sim-{name}")
    resident = await identity.verify_wechat_phone(await session_of(identity, wechat), f"sim-{name}")
    assert (resident.level, len(resident.phone)) == (2, 11)
    await identity.send_sms_code(resident.phone, "127.0.0.1")
    by_sms = await identity.login_sms(resident.phone, sent_codes[resident.phone])
    assert (by_sms.resident.id, by_sms.is_new) == (resident.id, False)


async def test_the_older_account_stays_and_both_tokens_lead_to_it(identity, sent_codes, database):
    name = a_name()
    wechat = await identity.login_wechat(f"sim-{name}")
    alipay = await identity.login_alipay(f"sim-{name}")
    number = id_number(int.from_bytes(name[-3:].encode()))
    moved = []

    async def move(from_id, into_id):
        moved.append((from_id, into_id))

    identity.after_join.append(move)
    await identity.verify_real_name(await session_of(identity, wechat), "张三", number)
    joined = await identity.verify_real_name(await session_of(identity, alipay), "张三", number)
    assert joined.id == wechat.resident.id
    assert moved == [(alipay.resident.id, wechat.resident.id)]
    assert (await session_of(identity, alipay)).resident_id == wechat.resident.id
    assert (await identity.resident(alipay.resident.id)).id == wechat.resident.id
    assert await identity.channel_identity(joined.id, "alipay") is not None
    events = await database["events"].find({"name": "identity.joined"}).to_list()
    assert [event["owner_id"] for event in events] == [joined.id]


async def test_a_joined_person_signs_in_with_either_number(identity, sent_codes):
    number, logins = id_number(777), []
    for phone in ("13900003001", "13900003002"):
        await identity.send_sms_code(phone, "a")
        logins.append(await identity.login_sms(phone, sent_codes[phone]))
        await identity.verify_real_name(await session_of(identity, logins[-1]), "张三", number)
    for phone in ("13900003001", "13900003002"):
        await identity.send_sms_code(phone, "a")
        again = await identity.login_sms(phone, sent_codes[phone])
        assert (again.resident.id, again.is_new) == (logins[0].resident.id, False)
    assert (await identity.resident(logins[0].resident.id)).phone == "13900003001"


async def test_what_a_face_has_proven_is_not_opened_by_a_name_and_a_number(identity):
    number = id_number(4711)
    first = await identity.login_wechat(f"sim-{a_name()}")
    session = await session_of(identity, first)
    await identity.verify_real_name(session, "张三", number)
    check = await identity.start_face_check(session)
    assert (await identity.confirm_face_check(session, check["id"])).level == 4
    second = await identity.login_wechat(f"sim-{a_name()}")
    other = await session_of(identity, second)
    newcomer = await identity.verify_real_name(other, "张三", number)
    assert (newcomer.id, newcomer.level, newcomer.id_number, newcomer.waits_to_join) == (second.resident.id, 3, number, True)
    assert (await identity.resident(first.resident.id)).level == 4
    assert (await identity.verify_real_name(other, "张三", number)).waits_to_join, "again, and still no way in"
    check = await identity.start_face_check(other)
    joined = await identity.confirm_face_check(other, check["id"])
    assert (joined.id, joined.level, joined.waits_to_join) == (first.resident.id, 4, False)
    assert (await session_of(identity, second)).resident_id == first.resident.id


async def test_who_waits_to_be_joined_meets_third_accounts(identity, sent_codes, database):
    """A claim on a number is no hold of it: joined by phone to an account without a number it stays a claim, and the holder keeps it."""
    number, phone = id_number(4712), "13900004712"
    holder = await identity.login_wechat(f"sim-{a_name()}")
    session = await session_of(identity, holder)
    await identity.verify_real_name(session, "张三", number)
    await identity.confirm_face_check(session, (await identity.start_face_check(session))["id"])
    claiming = await identity.login_wechat(f"sim-{a_name()}")
    await identity.verify_real_name(await session_of(identity, claiming), "张三", number)
    await identity.send_sms_code(phone, "a")
    by_phone = await identity.login_sms(phone, sent_codes[phone])
    await identity.send_sms_code(phone, "a")
    both = await identity.verify_sms_phone(await session_of(identity, claiming), phone, sent_codes[phone])
    assert (both.id, both.phone, both.waits_to_join) == (claiming.resident.id, phone, True)
    assert (await session_of(identity, by_phone)).resident_id == claiming.resident.id
    assert (await identity.resident(holder.resident.id)).level == 4
    # The holder's number has another citizen number than a third person's, who shows the same phone: still two persons.
    stranger = await identity.login_wechat(f"sim-{a_name()}")
    await identity.verify_real_name(await session_of(identity, stranger), "李四", id_number(4713))
    await identity.send_sms_code(phone, "a")
    with pytest.raises(errors.PhoneTaken):
        await identity.verify_sms_phone(await session_of(identity, stranger), phone, sent_codes[phone])
    # Should the holder be gone, the number goes to who shows their face.
    await database["residents"].update_one({"_id": holder.resident.id}, {"$unset": {"id_index": ""}})
    own = await session_of(identity, claiming)
    alone = await identity.confirm_face_check(own, (await identity.start_face_check(own))["id"])
    assert (alone.id, alone.level, alone.waits_to_join) == (claiming.resident.id, 4, False)


async def test_a_phone_of_another_verified_person_is_refused(identity, sent_codes):
    first = await identity.login_wechat(f"sim-{a_name()}")
    second = await identity.login_wechat(f"sim-{a_name()}")
    await identity.verify_real_name(await session_of(identity, first), "张三", id_number(1001))
    await identity.verify_real_name(await session_of(identity, second), "李四", id_number(1002))
    phone = "13900001001"
    await identity.send_sms_code(phone, "a")
    await identity.verify_sms_phone(await session_of(identity, first), phone, sent_codes[phone])
    await identity.send_sms_code(phone, "a")
    with pytest.raises(errors.PhoneTaken):
        await identity.verify_sms_phone(await session_of(identity, second), phone, sent_codes[phone])


async def test_real_name_refusals(identity):
    session = await session_of(identity, await identity.login_wechat(f"sim-{a_name()}"))
    with pytest.raises(ValidationFailed) as caught:
        await identity.verify_real_name(session, "", "440200190001010011")
    assert {row["pointer"] for row in caught.value.errors} == {"/name", "/id_number"}
    with pytest.raises(errors.IdentityMismatch):
        await identity.verify_real_name(session, "张不符", id_number(2001))
    with pytest.raises(ProviderUnavailable):
        await identity.verify_real_name(session, "张超时", id_number(2002))
    await identity.verify_real_name(session, "张三", id_number(2003))
    with pytest.raises(errors.AlreadyVerified):
        await identity.verify_real_name(session, "张三", id_number(2004))


async def test_somebody_else_before_the_camera_does_not_pass(identity):
    session = await session_of(identity, await identity.login_wechat(f"sim-{a_name()}"))
    with pytest.raises(errors.LevelRequired):
        await identity.start_face_check(session)
    await identity.verify_real_name(session, "张非本人", id_number(3001))
    check = await identity.start_face_check(session)
    with pytest.raises(errors.FaceFailed):
        await identity.confirm_face_check(session, check["id"])
    other = await session_of(identity, await identity.login_wechat(f"sim-{a_name()}"))
    with pytest.raises(errors.FaceCheckNotFound):
        await identity.confirm_face_check(other, check["id"])


async def test_a_sms_code_signs_in_once(identity, sent_codes):
    phone = "13900002001"
    await identity.send_sms_code(phone, "a")
    code = sent_codes[phone]
    results = await asyncio.gather(*(identity.login_sms(phone, code) for _ in range(4)), return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 1


async def test_five_wrong_tries_end_a_code(identity, sent_codes):
    phone = "13900002002"
    await identity.send_sms_code(phone, "a")
    wrong = "000000" if sent_codes[phone] != "000000" else "111111"
    for _ in range(5):
        with pytest.raises(errors.SmsCodeWrong):
            await identity.login_sms(phone, wrong)
    with pytest.raises(errors.SmsCodeWrong):
        await identity.login_sms(phone, sent_codes[phone])


async def test_five_tries_hold_also_when_they_come_at_once(identity, sent_codes):
    phone = "13900002004"
    await identity.send_sms_code(phone, "a")
    right = sent_codes[phone]
    guesses = [f"{number:06d}" for number in range(60) if f"{number:06d}" != right] + [right]
    results = await asyncio.gather(*(identity.login_sms(phone, guess) for guess in guesses), return_exceptions=True)
    assert all(isinstance(result, errors.SmsCodeWrong) for result in results)


async def test_codes_are_limited_per_phone(database, keys):
    async def send(*_):
        pass

    codes = SmsCodes(database, keys, SmsLimits(60, 5, 20), send)
    await codes.send("13900002003", "a", purpose="login", now=utc_now())
    with pytest.raises(RateLimited) as caught:
        await codes.send("13900002003", "a", purpose="login", now=utc_now())
    assert 1 <= caught.value.retry_after_s <= 60


async def test_of_many_who_ask_for_a_code_at_once_one_is_sent(database, keys):
    sent: list[str] = []

    async def send(phone: str, *_):
        sent.append(phone)

    codes, now = SmsCodes(database, keys, SmsLimits(60, 5, 100), send), utc_now()
    asked = (codes.send("13900002055", f"a{number}", purpose="login", now=now) for number in range(30))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert len(sent) == 1
    assert [type(result) for result in results if result is not None] == [RateLimited] * 29
    await codes.send("13900002055", "a", purpose="login", now=now + timedelta(seconds=61))
    assert len(sent) == 2


async def test_one_address_asks_for_many_numbers_at_once_as_often_as_one_after_the_other(database, keys):
    sent: list[str] = []

    async def send(phone: str, *_):
        sent.append(phone)

    codes, now = SmsCodes(database, keys, SmsLimits(60, 5, 7), send), utc_now()
    asked = (codes.send(f"139000021{number:02d}", "198.51.100.77", purpose="login", now=now) for number in range(40))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert 7 <= len(sent) <= 10  # two notes of one moment may miss each other
    assert sum(isinstance(result, RateLimited) for result in results) == 40 - len(sent)
    assert await database["sms_sends"].count_documents({"address": "198.51.100.77"}) == len(sent)


async def test_nothing_personal_is_stored_in_clear(identity, database):
    session = await session_of(identity, await identity.login_wechat(f"sim-{a_name()}"))
    number = id_number(5001)
    await identity.verify_real_name(session, "欧阳示例", number)
    stored = str([document async for document in database["residents"].find({})])
    assert number not in stored
    assert "欧阳" not in stored


async def test_staff_sign_in_and_lock(database, keys):
    accounts = StaffAccounts(database, keys)
    await accounts.ensure_demo_accounts([{"id": "sg-gaj", "short_name": "市公安局"}], "right")
    token, _seconds, staff = await accounts.login("clerk.sg-gaj", "right")
    assert (staff.role, staff.agency_id) == ("clerk", "sg-gaj")
    assert (await accounts.authenticate(token)).account == "clerk.sg-gaj"
    for _ in range(5):
        with pytest.raises(errors.StaffLoginRefused):
            await accounts.login("clerk.sg-gaj", "wrong")
    with pytest.raises(RateLimited):
        await accounts.login("clerk.sg-gaj", "right")
    with pytest.raises(errors.StaffLoginRefused):
        await accounts.login("nobody", "right")
    await accounts.ensure_demo_accounts([{"id": "sg-gaj", "short_name": "市公安局"}], "new")
    assert (await accounts.login("clerk.sg-gaj", "new"))[2].account == "clerk.sg-gaj"


async def test_staff_sign_out_ends_the_token_and_five_tries_hold_at_once(database, keys):
    accounts = StaffAccounts(database, keys)
    await accounts.ensure_demo_accounts([{"id": "sg-jj", "short_name": "市交警"}], "right")
    token, _seconds, _staff = await accounts.login("clerk.sg-jj", "right")
    await accounts.logout(token)
    with pytest.raises(errors.TokenInvalid):
        await accounts.authenticate(token)
    words = ["wrong"] * 20 + ["right"]
    results = await asyncio.gather(*(accounts.login("clerk.sg-jj", word) for word in words), return_exceptions=True)
    assert sum(isinstance(result, errors.StaffLoginRefused) for result in results) == 5
    assert all(isinstance(result, Exception) for result in results)


async def test_accounts_are_added_changed_and_disabled(database, keys):
    accounts = StaffAccounts(database, keys)
    assert await accounts.add("wang.li", "王丽", "clerk", "sg-gaj", "first")
    assert not await accounts.add("wang.li", "王丽", "clerk", "sg-gaj", "again")
    token, _seconds, _staff = await accounts.login("wang.li", "first")
    assert await accounts.set_password("wang.li", "second")
    with pytest.raises(errors.TokenInvalid):
        await accounts.authenticate(token)
    token, _seconds, _staff = await accounts.login("wang.li", "second")
    assert await accounts.disable("wang.li")
    with pytest.raises(errors.TokenInvalid):
        await accounts.authenticate(token)
    with pytest.raises(errors.StaffLoginRefused):
        await accounts.login("wang.li", "second")
    assert not await accounts.disable("nobody")


async def test_alipay_phone_is_verified_before_it_is_read(identity, stand_ins):
    name = a_name()
    login = await identity.login_alipay(f"sim-{name}")
    session = await session_of(identity, login)
    async with aiohttp.ClientSession() as http, http.get(f"{stand_ins.url}/_sim/alipay/phone?name={name}") as response:
        encrypted = await response.json(content_type=None)
    assert (await identity.verify_alipay_phone(session, encrypted)).level == 2
    with pytest.raises(Exception) as caught:
        await identity.verify_alipay_phone(session, {**encrypted, "sign": "bm8="})
    assert 400 <= caught.value.status < 500
