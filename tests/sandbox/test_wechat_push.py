"""Message push in secure mode, opened here with code of its own."""

import json
from base64 import b64decode

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sandbox.wechat_push import PATH, signature


@pytest.fixture
async def hall(running):
    got = []

    async def take(request):
        got.append((dict(request.query), await request.read()))
        return web.Response(text=request.query.get("echostr", "success"))

    app = web.Application()
    app.router.add_route("*", PATH, take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    running.sandbox.hall_url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield got
    await runner.cleanup()


def opened(own, raw):
    key = b64decode(own.wechat_message_aes_key + "=")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    plain = decryptor.update(b64decode(json.loads(raw)["Encrypt"])) + decryptor.finalize()
    assert len(plain) % 32 == 0 and 1 <= plain[-1] <= 32
    plain = plain[: -plain[-1]]
    size = int.from_bytes(plain[16:20], "big")
    assert plain[20 + size :].decode() == own.wechat_app_id
    return json.loads(plain[20 : 20 + size])


@pytest.mark.parametrize("count", [1, 2])
async def test_secure_push_and_the_list_that_is_an_object_for_one(running, merchant, hall, sim, count):
    rows = [{"TemplateId": f"t{n}", "SubscribeStatusString": "accept", "PopupScene": "1"} for n in range(count)]
    assert await sim("wechat/push", name="张三", event="subscribe_msg_popup_event", list=rows) == (
        200,
        {"status": 200, "answer": "success"},
    )
    own, (query, raw) = running.sandbox.credentials, hall[0]
    message = opened(own, raw)
    assert message["FromUserName"] == merchant.people["张三"]["wechat"]["openid"]
    assert message["List"] == (rows[0] if count == 1 else rows)
    sealed = json.loads(raw)["Encrypt"]
    assert query["msg_signature"] == signature(own.wechat_message_token, query["timestamp"], query["nonce"], sealed)


async def test_plain_forged_and_server_check(merchant, hall, sim):
    await sim("wechat/push", name="张三", event="user_authorization_revoke", mode="plain", forged=True)
    assert hall[0][0]["signature"] == "0" * 40 and json.loads(hall[0][1])["Event"] == "user_authorization_revoke"
    _, body = await sim("wechat/verify-server")
    assert body["answer"] == hall[1][0]["echostr"]
