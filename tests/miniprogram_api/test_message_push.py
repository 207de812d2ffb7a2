"""WeChat's message push: only WeChat is believed, and every push counts once."""

import base64
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from app.kernel.clock import utc_now
from push.wechat_callback import CallbackRejected, MessageCipher, check_signature, parse, read, signature
from tests.push.conftest import desk, stand_in_keys  # noqa: F401
from tests.push.desk import Desk
from tests.push.web import Web, open_web

PATH = "/callbacks/wechat/messages"


@pytest.fixture
async def web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys) as web:
        desk.running.sandbox.hall_url = web.url
        yield web


@pytest.fixture
async def plain_web(desk: Desk, keys) -> AsyncIterator[Web]:  # noqa: F811
    async with open_web(desk, keys, HALL_WECHAT_MESSAGE_AES_KEY="") as web:
        desk.running.sandbox.hall_url = web.url
        yield web


async def _push(web: Web, name: str, event: str, rows: list[dict[str, Any]], **more: Any) -> tuple[int, str]:
    said = await web.desk.sim("wechat/push", {"name": name, "event": event, "list": rows, **more})
    return said["status"], said["answer"]


async def _left(web: Web, login: Any, template_id: str) -> int:
    return await web.desk.left(login.resident.id, template_id)


def _accept(*template_ids: str) -> list[dict[str, str]]:
    return [
        {"TemplateId": one, "SubscribeStatusString": "accept", "PopupScene": "0"} for one in template_ids
    ]


async def test_the_server_check_returns_the_echo(web: Web):
    assert (await web.desk.sim("wechat/verify-server", {}))["status"] == 200
    assert (await web.desk.sim("wechat/verify-server", {"forged": True}))["status"] == 403
    for query in ("", "?signature=&timestamp=&nonce=&echostr=x", "?signature=%FF&timestamp=1&nonce=1&echostr=x"):
        status, problem, answer = await web.call("GET", PATH + query)
        assert status in (400, 403) and answer.headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize("count", [1, 2], ids=["object", "array"])
async def test_a_popup_grants_in_secure_mode(web: Web, count):
    login = await web.sign_in("popup")
    ids = [template.template_id for template in web.desk.push.templates.wechat[:count]]

    assert await _push(web, "popup", "subscribe_msg_popup_event", _accept(*ids)) == (200, "success")

    assert [await _left(web, login, one) for one in ids] == [1] * count


async def test_a_popup_grants_in_plain_mode(plain_web: Web):
    login = await plain_web.sign_in("plain")
    template_id = plain_web.desk.push.templates.wechat[0].template_id
    event = "subscribe_msg_popup_event"

    assert await _push(plain_web, "plain", event, _accept(template_id), mode="plain") == (200, "success")
    status, _ = await _push(plain_web, "plain", event, _accept(template_id), mode="plain", forged=True)

    assert status == 403
    assert await _left(plain_web, login, template_id) == 1


async def test_plain_and_forged_bodies_are_refused_in_secure_mode(web: Web):
    login = await web.sign_in("forger")
    template_id = web.desk.push.templates.wechat[0].template_id
    event = "subscribe_msg_popup_event"

    assert (await _push(web, "forger", event, _accept(template_id), mode="plain"))[0] == 403
    assert (await _push(web, "forger", event, _accept(template_id), forged=True))[0] == 403

    assert await _left(web, login, template_id) == 0


async def test_turning_a_template_off_leaves_nothing(web: Web):
    login = await web.sign_in("off")
    template_id = await web.desk.grant(login.resident.id, "case.accepted", 3)
    row = {"TemplateId": template_id, "SubscribeStatusString": "reject"}

    assert await _push(web, "off", "subscribe_msg_change_event", [row]) == (200, "success")

    assert await _left(web, login, template_id) == 0


async def test_the_fate_of_a_message_is_noted(web: Web):
    login = await web.sign_in("fate")
    template_id = await web.desk.grant(login.resident.id, "case.accepted")
    await web.desk.push.tell(web.desk.event(login.resident.id, "case.accepted"))
    await web.desk.push.deliver_due()
    (delivery,) = await web.desk.deliveries(login.resident.id)
    row = {"TemplateId": template_id, "MsgID": delivery["vendor_id"], "ErrorCode": "0", "ErrorStatus": "success"}

    assert (await _push(web, "fate", "subscribe_msg_sent_event", [row]))[1] == "success"

    (delivery,) = await web.desk.deliveries(login.resident.id)
    assert delivery["fate"] == "success"


@pytest.mark.parametrize("event", ["wxa_media_check", "user_authorization_revoke", "something_new"])
async def test_unknown_events_are_answered_and_left_alone(web: Web, event):
    await web.sign_in("unknown")
    assert await _push(web, "unknown", event, [{"TemplateId": "x"}]) == (200, "success")


def _sealed(web: Web, message: bytes, *, age_s: int = 0, app_id: str = "") -> tuple[str, bytes]:
    settings = web.hall.settings
    sealed = MessageCipher(settings.wechat_message_aes_key, app_id or settings.wechat_app_id).seal(message)
    timestamp, nonce = str(int(time.time()) - age_s), "42"
    given = signature(settings.wechat_message_token, timestamp, nonce, sealed)
    return urlencode({"timestamp": timestamp, "nonce": nonce, "msg_signature": given}), orjson.dumps({"Encrypt": sealed})


async def _post(web: Web, query: str, body: bytes) -> int:
    return (await web.call("POST", f"{PATH}?{query}", data=body))[0]


async def test_a_repeated_push_counts_once(web: Web):
    login = await web.sign_in("repeat")
    template_id = web.desk.push.templates.wechat[0].template_id
    openid = web.desk.town.identities[login.resident.id, "wechat"]["openid"]
    message = orjson.dumps(
        {"FromUserName": openid, "CreateTime": 1, "MsgType": "event", "Event": "subscribe_msg_popup_event",
         "List": _accept(template_id)}
    )  # fmt: skip

    for _ in range(3):
        query, body = _sealed(web, message)  # each time with another nonce and other random bytes, as WeChat repeats
        assert await _post(web, query, body) == 200

    assert await _left(web, login, template_id) == 1


async def test_old_foreign_and_broken_bodies_are_refused(web: Web):
    await web.sign_in("broken")
    query, body = _sealed(web, b"{}", age_s=600)
    assert await _post(web, query, body) == 403
    query, body = _sealed(web, b"{}", app_id="wx_of_somebody_else")
    assert await _post(web, query, body) == 403
    query, body = _sealed(web, b"neither JSON nor XML")
    assert await _post(web, query, body) == 403
    query, _ = _sealed(web, b"{}")
    for junk in (b"", b"{", b"[]", b'{"Encrypt": 5}', b'{"Encrypt": "!!"}', b"<xml>", b"\xff\xfe", b"<!DOCTYPE x []><x/>"):
        assert await _post(web, query, junk) == 403


async def test_the_client_and_wechat_report_one_tap(web: Web):
    login = await web.sign_in("onetap")
    template_id = web.desk.push.templates.wechat[0].template_id
    openid = web.desk.town.identities[login.resident.id, "wechat"]["openid"]
    await web.desk.push.grants.choose(openid, template_id, "accept", source="client", now=utc_now())

    await _push(web, "onetap", "subscribe_msg_popup_event", _accept(template_id))

    assert await _left(web, login, template_id) == 1


def test_decryption_refuses_bad_padding_and_lengths():
    key = base64.b64encode(bytes(range(32))).decode().rstrip("=")
    cipher = MessageCipher(key, "wx1")
    assert cipher.open(cipher.seal("中文".encode())) == "中文".encode()
    for size in range(0, 70):  # every length of padding, 32 bytes included
        assert cipher.open(cipher.seal(b"x" * size)) == b"x" * size
    sealed = bytearray(base64.b64decode(cipher.seal(b"{}")))
    for position in range(0, len(sealed), 7):
        broken = bytearray(sealed)
        broken[position] ^= 1
        try:
            assert cipher.open(base64.b64encode(bytes(broken)).decode()) == b"{}"  # only the random bytes were hit
        except CallbackRejected as error:
            assert str(error) == "cipher"
    for text in ("", "AAAA", "not base64", "é"):
        with pytest.raises(CallbackRejected):
            cipher.open(text)


@pytest.mark.parametrize("deep", [200, 300, 900])
def test_what_is_nested_without_end_is_read_or_refused(deep: int):
    body = b'{"Event":"x","List":' + b"[" * deep + b"]" * deep + b"}"
    try:
        read(parse(body))
    except CallbackRejected:
        assert deep > 250


def test_xml_is_read_like_json():
    xml = (
        b"<xml><FromUserName><![CDATA[o1]]></FromUserName><CreateTime>7</CreateTime><MsgType>event</MsgType>"
        b"<Event>subscribe_msg_popup_event</Event><SubscribeMsgPopupEvent>"
        b"<List><TemplateId>t1</TemplateId><SubscribeStatusString>accept</SubscribeStatusString></List>"
        b"<List><TemplateId>t2</TemplateId><SubscribeStatusString>reject</SubscribeStatusString></List>"
        b"</SubscribeMsgPopupEvent></xml>"
    )
    push = read(parse(xml))
    assert [(one.template_id, one.status) for one in push.choices] == [("t1", "accept"), ("t2", "reject")]
    assert push.openid == "o1"
    entities = '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be"):
        with pytest.raises(CallbackRejected):
            parse(entities.encode(encoding))
    with pytest.raises(CallbackRejected):
        parse(b"<a>" * 30_000 + b"</a>" * 30_000)
    began = time.perf_counter()
    assert len(parse(b"<xml>" + b"<a/>" * 60_000 + b"</xml>")["a"]) == 60_000
    assert time.perf_counter() - began < 3  # each row costs the same: a body of the largest size must not hold the process


# Published with Tencent's own sample code of message encryption (WXBizMsgCrypt, Java: WXBizMsgCryptTest; Python and Node: Sample).
_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
_VECTORS = [
    (
        "我是中文abcd123",
        "jn1L23DB+6ELqJ+6bruv21Y6MD7KeIfP82D6gU39rmkgczbWwt5+3bnyg5K55bgVtVzd832WzZGMhkP72vVOfg==",
    ),
    (
        "<xml><ToUserName><![CDATA[oia2Tj我是中文jewbmiOUlr6X-1crbLOvLw]]></ToUserName><FromUserName><![CDATA[gh_7f083739789a]]></FromUserName>"
        "<CreateTime>1407743423</CreateTime><MsgType><![CDATA[video]]></MsgType><Video><MediaId>"
        "<![CDATA[eYJ1MbwPRJtOvIEabaxHs7TX2D-HV71s79GUxqdUkjm6Gs2Ed1KF3ulAOA9H1xG0]]></MediaId><Title><![CDATA[testCallBackReplyVideo]]></Title>"
        "<Description><![CDATA[testCallBackReplyVideo]]></Description></Video></xml>",
        "jn1L23DB+6ELqJ+6bruv23M2GmYfkv0xBh2h+XTBOKVKcgDFHle6gqcZ1cZrk3e1qjPQ1F4RsLWzQRG9udbKWesxlkupqcEcW7ZQweImX9+wLMa0GaUzpkycA8+IamDBxn5l"
        "oLgZpnS7fVAbExOkK5DYHBmv5tptA9tklE/fTIILHR8HLXa5nQvFb3tYPKAlHF3rtTeayNf0QuM+UW/wM9enGIDIJHF7CLHiDNAYxr+r+OrJCmPQyTy8cVWlu9iSvOHPT/77"
        "bZqJucQHQ04sq7KZI27OcqpQNSto2OdHCoTccjggX5Z9Mma0nMJBU+jLKJ38YB1fBIz+vBzsYjrTmFQ44YfeEuZ+xRTQwr92vhA9OxchWVINGC50qE/6lmkwWTwGX9wtQpsJ"
        "KhP+oS7rvTY8+VdzETdfakjkwQ5/Xka042OlUb1/slTwo4RscuQ+RdxSGvDahxAJ6+EAjLt9d8igHngxIbf6YyqqROxuxqIeIch3CssH/LqRs+iAcILvApYZckqmA7FNERsp"
        "KA5f8GoJ9sv8xmGvZ9Yrf57cExWtnX8aCMMaBropU/1k+hKP5LVdzbWCG0hGwx/dQudYR/eXp3P0XxjlFiy+9DMlaFExWUZQDajPkdPrEeOwofJb",
    ),
]
_PUSHED = (
    "hyzAe4OzmOMbd6TvGdIOO6uBmdJoD0Fk53REIHvxYtJlE2B655HuD0m8KUePWB3+LrPXo87wzQ1QLvbeUgmBM4x6F8PGHQHFVAFmOD2LdJF9FrXpbUAh0B5GIItb52sn896wVsMS"
    "HGuPE328HnRGBcrS7C41IzDWyWNlZkyyXwon8T332jisa+h6tEDYsVticbSnyU8dKOIbgU6ux5VTjg3yt+WGzjlpKn6NPhRjpA912xMezR4kw6KWwMrCVKSVCZciVGCgavjIQ6X8"
    "tCOp3yZbGpy0VxpAe+77TszTfRd5RJSVO/HTnifJpXgCSUdUue1v6h0EIBYYI1BD1DlD+C0CR8e6OewpusjZ4uBl9FyJvnhvQl+q5rv1ixrcpCumEPo5MJSgM9ehVsNPfUM669Wu"
    "MyVWQLCzpu9GhglF2PE="
)


@pytest.mark.parametrize(("message", "sealed"), _VECTORS, ids=["short", "long"])
def test_the_published_vectors_of_message_encryption_are_met_both_ways(message: str, sealed: str):
    cipher = MessageCipher(_KEY, "wxb11529c136998cb6")
    assert cipher.seal(message.encode(), random=b"aaaabbbbccccdddd") == sealed
    assert cipher.open(sealed) == message.encode()
    with pytest.raises(CallbackRejected):
        MessageCipher(_KEY, "wxb11529c136998cb7").open(sealed)


def test_the_published_push_is_verified_and_opened():
    given = "5d197aaffba7e9b25a30732f161a50dee96bd5fa"
    assert signature("spamtest", "1409735669", "1320562132", _PUSHED) == given
    check_signature(given, "spamtest", "1409735669", "1320562132", _PUSHED)
    with pytest.raises(CallbackRejected):
        check_signature(given, "spamtest", "1409735669", "1320562133", _PUSHED)
    push = read(parse(MessageCipher(_KEY, "wx2c2769f8efd9abc2").open(_PUSHED)))
    assert push.openid == "oyORnuP8q7ou2gfYjqLzSIWZf0rs" and push.message is not None
    assert (push.message.kind, push.message.text, push.message.at) == ("text", "abcdteT", 1409735668)
