"""A small client that lives stories against a running hall over HTTP: used by ./hall demo and by the journey tests."""

import asyncio
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from app.kernel.ids import ulid

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


class Refused(Exception):
    """The hall answered with a problem."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')} {problem.get('errors') or ''}")
        self.status = status
        self.problem = problem
        self.code = problem.get("code")


class Person:
    """Somebody with a token (a resident, a clerk) or without one."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, token: str = "") -> None:
        self.http = http
        self.base_url = base_url
        self.token = token
        self.session: Mapping[str, Any] = {}

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> Any:
        """Call the hall; return the parsed answer. Raises Refused for 4xx and 5xx."""
        sent = dict(headers or {})
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if key is not None:
            sent["Idempotency-Key"] = key
        async with self.http.request(
            method, self.base_url + path, json=body, data=data, headers=sent, allow_redirects=False
        ) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            answer = await response.json(content_type=None) if raw and "json" in kind else raw
            if response.status >= 400:
                raise Refused(response.status, answer if isinstance(answer, dict) else {"detail": raw[:200]})
            return answer

    async def get(self, path: str) -> Any:
        return await self.call("GET", path)

    async def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        return await self.call("POST", path, body if body is not None else {}, key=key)

    # --- residents ---

    async def sign_in_wechat(self, name: str) -> "Person":
        return self._signed_in(await self.post("/mp/v1/wechat/login", {"code": f"sim-{name}"}))

    async def sign_in_alipay(self, name: str) -> "Person":
        return self._signed_in(await self.post("/mp/v1/alipay/login", {"auth_code": f"sim-{name}"}))

    async def sign_in_sms(self, phone: str, sandbox_url: str) -> "Person":
        await self.post("/v1/auth/sms", {"phone": phone})
        code = await sms_code(self.http, sandbox_url, phone)
        return self._signed_in(await self.post("/v1/auth/sms/login", {"phone": phone, "code": code}))

    def _signed_in(self, session: Mapping[str, Any]) -> "Person":
        person = Person(self.http, self.base_url, session["access_token"])
        person.session = session
        return person

    async def prove(self, name: str, id_number: str) -> None:
        """Real name, then face check (L4)."""
        await self.post("/v1/me/real-name", {"name": name, "id_number": id_number})
        check = await self.post("/v1/me/face-checks")
        await self.post(f"/v1/me/face-checks/{check['id']}/confirm")

    async def open_case(self, item_code: str, answers: Mapping[str, Any], division: str = "440203") -> Any:
        body = {"item_code": item_code, "division_code": division, "answers": answers}
        return await self.post("/v1/cases", body, key=ulid())

    async def fill(self, case: Mapping[str, Any], form: Mapping[str, Any]) -> Any:
        return await self.call("PATCH", f"/v1/cases/{case['id']}", {"form": form, "version": case["version"]})

    async def upload(self, case_id: str, key: str, name: str = "photo.png", content: bytes | None = None) -> Any:
        form = aiohttp.FormData()
        form.add_field("file", content or picture(), filename=name, content_type="image/png")
        return await self.call("PUT", f"/v1/cases/{case_id}/materials/{key}", data=form)

    async def upload_missing(self, case: Mapping[str, Any]) -> None:
        for material in case["materials"]:
            if material["status"] == "missing":
                await self.upload(case["id"], material["key"])

    async def order(self, kind: str, subject_id: str) -> Any:
        return await self.post("/v1/orders", {"payables": [{"kind": kind, "id": subject_id}]}, key=ulid())

    async def pay(self, order_id: str, provider: str) -> Any:
        return await self.post(
            f"/v1/orders/{order_id}/pay", {"provider": provider, "scene": "mini_program"}, key=ulid()
        )

    async def until(self, path: str, holds: Callable[[Any], bool], within_s: float = 30) -> Any:
        """Ask again until the answer fits. Raises AssertionError with the last answer."""
        answer = await self.get(path)
        for _ in range(int(within_s / 0.2)):
            if holds(answer):
                return answer
            await asyncio.sleep(0.2)
            answer = await self.get(path)
        raise AssertionError(f"{path} did not become what was awaited within {within_s} s: {answer}")

    # --- staff ---

    async def sign_in_staff(self, account: str, password: str) -> "Person":
        answer = await self.post("/staff/v1/login", {"account": account, "password": password})
        return Person(self.http, self.base_url, answer["access_token"])

    async def act(self, case_id: str, action: str, **body: Any) -> Any:
        return await self.post(f"/staff/v1/cases/{case_id}/{action}", body)


async def sms_code(http: aiohttp.ClientSession, sandbox_url: str, phone: str) -> str:
    """Read the newest code that was sent to a phone."""
    async with http.get(f"{sandbox_url}/_sim/sent", params={"channel": "sms", "to": phone}) as response:
        sent = (await response.json())["items"]
    return str([message for message in sent if message.get("code")][-1]["code"])


async def sent_to(http: aiohttp.ClientSession, sandbox_url: str, to: str) -> list[Mapping[str, Any]]:
    """Return what the stand-ins were asked to send to a phone, an openid or an open_id."""
    async with http.get(f"{sandbox_url}/_sim/sent", params={"to": to}) as response:
        return list((await response.json())["items"])


async def cashier(http: aiohttp.ClientSession, sandbox_url: str, provider: str, out_trade_no: str, outcome: str) -> None:
    """Do what the resident does in the cashier."""
    body = {"provider": provider, "out_trade_no": out_trade_no, "outcome": outcome}
    async with http.post(f"{sandbox_url}/_sim/pay", json=body) as response:
        if response.status >= 400:
            raise Refused(response.status, {"detail": await response.text()})


def id_number(seed: int) -> str:
    """Return a checksum-valid sample citizen number; different seeds give different numbers."""
    first = f"44020319{70 + seed % 30:02d}{seed // 30 % 12 + 1:02d}{seed // 360 % 28 + 1:02d}{seed // 10080 % 1000:03d}"
    return first + "10X98765432"[sum(w * int(d) for w, d in zip(_WEIGHTS, first, strict=True)) % 11]


_SAMPLES: dict[str, Any] = {
    "text": "示例内容",
    "textarea": "示例内容",
    "address": "韶关市武江区示例路1号",
    "mobile": "13800000001",
    "number": 1,
    "money": 100,
    "boolean": True,
    "date": "2026-11-01",
    "datetime": "2026-11-30T09:30",
    "month": "2026-11",
    "division": "440203",
    "bank_card": "6222020000000000000",
    "uscc": "91440200999009018L",
    "plate": "粤F12345",
    "vin": "LSVAA4182E2000001",
    "list": ["示例"],
}

# A value for each pattern the catalogue's text fields ask for.
_BY_PATTERN = {
    r"^\d{12}$": "440200000015",
    r"^\d{20}$": "44020026000000001012",
    r"^\d{15,16}$": "4402031900000015",
    r"^\d{8,10}$": "12345678",
    r"^\d{8,12}$": "44020000101",
    r"^[A-Z]\d{9}$": "A123456789",
    r"^\d{6}[\dA-Z]{22}$": "440203001001GB00001F00010001",
    r"^[A-Z0-9]{4,20}$": "ABC123",
    r"^[A-Z0-9]{8,20}$": "ABC12345",
    r"^[A-Z0-9]{12,43}$": "ABC123456789",
    r"^[A-Z0-9]{6}$": "ABC123",
}


def sample_value(field: Mapping[str, Any], seed: int = 1) -> Any:
    """Return an answer that fits a form field's own definition."""
    kind = field["type"]
    if kind == "select":
        return field["options"][0]["value"]
    if kind == "multiselect":
        return [field["options"][0]["value"]]
    if kind == "id_number":
        return id_number(seed)
    if kind == "table":
        return [{column: "示例" for column in field["columns"]}]
    if kind in ("text", "photo"):
        return _BY_PATTERN.get(field.get("pattern", ""), "示例内容")
    if kind in ("number", "money"):
        return max(_SAMPLES[kind], field.get("min", 0))
    return _SAMPLES[kind]


def sample_form(fields: Sequence[Mapping[str, Any]], seed: int = 1) -> dict[str, Any]:
    """Return answers for all fields of a form."""
    return {field["key"]: sample_value(field, seed) for field in fields}


def picture(shade: int = 120) -> bytes:
    """Return a small grey PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\x00" + bytes([shade]) * 16 for _ in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
