"""Callers that sign with the published SDKs, so that the stand-ins are judged by code nobody here wrote."""

import json
import secrets
import time
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import aiohttp
from alipay import AliPay
from cryptography import x509
from wechatpayv3 import utils

from sandbox.credentials import Credentials

HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "hall-test"}


# Reading a key costs tens of milliseconds in both libraries, hence once per key.
private_key = lru_cache(utils.load_private_key)


@lru_cache
def _alipay_sdk(credentials: Credentials) -> AliPay:
    return AliPay(
        appid=credentials.alipay_app_id,
        app_notify_url=None,
        app_private_key_string=credentials.alipay_app_private_key,
        alipay_public_key_string=credentials.alipay_public_key,
        sign_type="RSA2",
    )


def number() -> str:
    return f"pay_{secrets.token_hex(13)}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Merchant:
    """The hall's side of both providers."""

    url: str
    credentials: Credentials
    http: aiohttp.ClientSession
    notify_url: str
    people: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def know(self, name: str) -> dict[str, Any]:
        async with self.http.post(f"{self.url}/_sim/people", json={"name": name}) as answer:
            self.people[name] = await answer.json()
        return self.people[name]

    # -- WeChat Pay -----------------------------------------------------------------------------------------------

    def jsapi_order(self, out_trade_no: str, /, **changes: Any) -> dict[str, Any]:
        order = {
            "appid": self.credentials.wechat_app_id,
            "mchid": self.credentials.wechatpay_mch_id,
            "description": "居民身份证丢失补领（工本费）",
            "out_trade_no": out_trade_no,
            "time_expire": (datetime.now(UTC) + timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            "notify_url": self.notify_url,
            "amount": {"total": 4000, "currency": "CNY"},
            "payer": {"openid": self.people["张三"]["wechat"]["openid"]},
        }
        return order | changes

    async def wechatpay(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **overrides: Any
    ) -> Answer:
        """Call with an Authorization built by wechatpayv3; `overrides` replace mchid, serial_no, body as sent ..."""
        text = json.dumps(body, ensure_ascii=False) if body is not None else ""
        authorization = utils.build_authorization(
            path,
            method,
            overrides.get("mchid", self.credentials.wechatpay_mch_id),
            overrides.get("serial_no", self.credentials.merchant_serial),
            private_key(self.credentials.merchant_private_key),
            data=text,
        )
        sent = HEADERS | {"Authorization": authorization, "Wechatpay-Serial": self.credentials.wechatpay_public_key_id}
        sent |= headers or {}
        async with self.http.request(
            method,
            self.url + overrides.get("path_sent", path),
            data=overrides.get("body_sent", text).encode() or None,
            headers={name: value for name, value in sent.items() if value},
            skip_auto_headers=("User-Agent", "Content-Type", "Accept"),
        ) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())

    def is_signed(self, headers: dict[str, str], raw: bytes) -> bool:
        """Verify an answer or notice with wechatpayv3 and the key its serial names."""
        if headers["Wechatpay-Serial"] == self.credentials.platform_serial:
            certificate = x509.load_pem_x509_certificate(self.credentials.platform_certificate.encode())
            key: Any = certificate.public_key()
        else:
            assert headers["Wechatpay-Serial"] == self.credentials.wechatpay_public_key_id
            key = utils.load_public_key(self.credentials.wechatpay_public_key)
        assert abs(time.time() - int(headers["Wechatpay-Timestamp"])) < 60
        return utils.rsa_verify(
            headers["Wechatpay-Timestamp"],
            headers["Wechatpay-Nonce"],
            raw.decode(),
            headers["Wechatpay-Signature"],
            key,
        )

    def open_notice(self, raw: bytes) -> dict[str, Any]:
        """Decrypt the resource of a notice with wechatpayv3."""
        resource = json.loads(raw)["resource"]
        plain = utils.aes_decrypt(
            nonce=resource["nonce"],
            ciphertext=resource["ciphertext"],
            associated_data=resource["associated_data"],
            apiv3_key=self.credentials.wechatpay_api_v3_key,
        )
        return json.loads(plain)

    # -- Alipay ---------------------------------------------------------------------------------------------------

    @property
    def sdk(self) -> AliPay:
        return _alipay_sdk(self.credentials)

    def trade(self, out_trade_no: str, /, **changes: Any) -> dict[str, Any]:
        content = {
            "out_trade_no": out_trade_no,
            "total_amount": "40.00",
            "subject": "居民身份证丢失补领{工本费}",
            "product_code": "JSAPI_PAY",
            "op_app_id": self.credentials.alipay_app_id,
            "buyer_open_id": self.people["张三"]["alipay"]["open_id"],
            "time_expire": (datetime.now(UTC) + timedelta(hours=8, minutes=30)).strftime("%Y-%m-%d %H:%M:%S"),
        }
        return content | changes

    def gateway_form(self, method: str, content: dict[str, Any] | None = None, **more: str) -> dict[str, str]:
        """Build a signed request; the signature comes from python-alipay-sdk."""
        form = {
            "app_id": self.credentials.alipay_app_id,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": (datetime.now(UTC) + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S"),
            "version": "1.0",
        }
        if content is not None:
            form["biz_content"] = json.dumps(content, ensure_ascii=False)
        form |= more
        text = "&".join(f"{name}={form[name]}" for name in sorted(form) if form[name] != "")
        return form | {"sign": self.sdk._sign(text)}

    async def alipay(self, method: str, content: dict[str, Any] | None = None, **more: str) -> Answer:
        return await self.alipay_send(self.gateway_form(method, content, **more))

    async def alipay_send(self, form: dict[str, str]) -> Answer:
        async with self.http.post(f"{self.url}/gateway.do?charset=utf-8", data=form) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())

    def business(self, answer: Answer, name: str) -> dict[str, Any]:
        """Cut the answer out as raw text, verify it with python-alipay-sdk, then read it."""
        text = answer.raw.decode()
        head = '{"' + name + '":'
        assert text.startswith(head), text
        value, end = json.JSONDecoder().raw_decode(text, len(head))
        signature = json.loads(text)["sign"]
        assert self.sdk._verify(text[len(head) : end], signature)
        return value

    @staticmethod
    def basic(user: str, password: str) -> dict[str, str]:
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
