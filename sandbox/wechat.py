"""The WeChat open platform of a mini-program: login, tokens, phone number, subscribe messages.

As with the original every answer has HTTP status 200 and type text/plain, and errors are `errcode` and `errmsg`.
"""

from __future__ import annotations

import secrets
from typing import Any

from sandbox import wechat_template
from sandbox.base import Sandbox, StandIn, rfc3339_utc
from sandbox.mishaps import is_code
from sandbox.people import Person, person_of_code

_TOKEN_LIVES_S = 7200
_OVERLAP_S = 300  # before its end a stable token is followed by a new one; both work for these five minutes


class WechatHandler(StandIn):
    provider = "wechat"

    def answer(self, value: dict[str, Any]) -> None:
        self.send(value, content_type="text/plain")

    def fail(self, errcode: int, errmsg: str) -> None:
        # The rid is what WeChat asks for when one reports a problem.
        rid = f"{int(self.now()):08x}-{secrets.token_hex(4)}-{secrets.token_hex(4)}"
        self.answer({"errcode": errcode, "errmsg": f"{errmsg} rid: {rid}"})

    def answer_error500(self) -> None:
        self.set_status(200)
        self.fail(-1, "system error")

    def has_token(self, account: str = "mini_program") -> bool:
        """Check access_token in the query; answers the error itself when it does not hold, or is another account's."""
        token = self.get_query_argument("access_token", "")
        if not token:
            self.fail(41001, "access_token missing")
            return False
        kept = self.store.get("wechat_token", token)
        if kept is None or kept.get("account", "mini_program") != account:
            self.fail(40001, "invalid credential, access_token is invalid or not latest")
            return False
        if kept["until"] <= self.now():
            self.fail(42001, "access_token expired")
            return False
        return True

    account = "mini_program"  # whose app id was given; set by is_app

    def is_app(self, appid: Any, secret: Any) -> bool:
        if not appid or not secret:
            self.fail(41002 if not appid else 41004, "appid missing" if not appid else "appsecret missing")
            return False
        keys = self.credentials
        known = {
            keys.wechat_app_id: ("mini_program", keys.wechat_app_secret),
            keys.official_app_id: ("official", keys.official_app_secret),
        }
        if not isinstance(appid, str) or appid not in known:
            self.fail(40013, "invalid appid")
            return False
        self.account, right = known[appid]
        if not isinstance(secret, str) or not secrets.compare_digest(secret, right):
            self.fail(40125, "invalid appsecret")
            return False
        return True


class Jscode2Session(WechatHandler):
    """GET /sns/jscode2session."""

    def get(self) -> None:
        query = {name: self.get_query_argument(name, "") for name in ("appid", "secret", "js_code", "grant_type")}
        if not self.is_app(query["appid"], query["secret"]):
            return
        if query["grant_type"] != "authorization_code":
            return self.fail(40002, "invalid grant_type")
        if not query["js_code"]:
            return self.fail(41008, "missing code")
        who = person_of_code(query["js_code"])
        if who is None:
            return self.fail(40029, "invalid code")
        register(self.sandbox, who)
        return self.answer({"session_key": who.session_key, "openid": who.openid, "unionid": who.unionid})


class Token(WechatHandler):
    """GET /cgi-bin/token: every call makes a new one and leaves the last one five minutes."""

    def get(self) -> None:
        if not self.is_app(self.get_query_argument("appid", ""), self.get_query_argument("secret", "")):
            return
        if self.get_query_argument("grant_type", "") != "client_credential":
            return self.fail(40002, "invalid grant_type")
        now = self.now()
        last = self.store.get("wechat_current", _kind("token", self.account))
        if last:
            until = min(last["until"], now + _OVERLAP_S)
            self.store.put("wechat_token", last["token"], {"until": until, "account": self.account})
        made = _make_token(self.sandbox, "token", self.account)
        return self.answer({"access_token": made["token"], "expires_in": _TOKEN_LIVES_S})


class StableToken(WechatHandler):
    """POST /cgi-bin/stable_token: the same token until five minutes before its end, unless forced."""

    def post(self) -> None:
        body = self.json_object()
        if body is None:
            return self.fail(47001, "data format error")
        if body.get("grant_type") != "client_credential":
            return self.fail(40002, "invalid grant_type")
        if not self.is_app(body.get("appid"), body.get("secret")):
            return
        now = self.now()
        kept = self.store.get("wechat_current", _kind("stable_token", self.account))
        forced = body.get("force_refresh") is True
        if kept and forced:
            if now - kept["made"] < 30:
                return self.fail(45011, "api minute-quota reach limit, must slower, retry next minute")
            self.store.drop("wechat_token", kept["token"])
        if not kept or forced or kept["until"] - now <= _OVERLAP_S:
            kept = _make_token(self.sandbox, "stable_token", self.account)
        return self.answer({"access_token": kept["token"], "expires_in": int(kept["until"] - now)})


class PhoneNumber(WechatHandler):
    """POST /wxa/business/getuserphonenumber: the code of the phone button, bound to the openid when one is sent."""

    def post(self) -> None:
        if not self.has_token():
            return
        body = self.json_object()
        if body is None:
            return self.fail(47001, "data format error")
        who = person_of_code(body["code"]) if isinstance(body.get("code"), str) else None
        if who is None or body.get("openid") not in (None, who.openid):
            return self.fail(40029, "invalid code")
        watermark = {"timestamp": int(self.now()), "appid": self.credentials.wechat_app_id}
        info = {"phoneNumber": who.phone, "purePhoneNumber": who.phone, "countryCode": "86", "watermark": watermark}
        return self.answer({"errcode": 0, "errmsg": "ok", "phone_info": info})


class SubscribeSend(WechatHandler):
    """POST /cgi-bin/message/subscribe/send."""

    def post(self) -> None:
        if not self.has_token():
            return
        body = self.json_object()
        if body is None:
            return self.fail(47001, "data format error")
        if is_code(self.fault):
            return self.fail(int(self.fault), "scripted")
        openid, template_id = body.get("touser"), body.get("template_id")
        name = self.store.get("openid", openid) if isinstance(openid, str) else None
        if name is None:
            return self.fail(40003, "invalid openid")
        problem = wechat_template.find_problem(self.store, template_id, body)
        if problem:
            return self.fail(*problem)
        if not _take_grant(self.sandbox, openid, template_id):
            return self.fail(43101, "user refuse to accept the msg")
        data = {key: part["value"] for key, part in body["data"].items()}
        now = self.now()
        record = {"at": rfc3339_utc(now), "channel": "wechat_subscribe", "to": openid, "openid": openid, "name": name}
        record |= {"template_id": template_id, "data": data, "page": body.get("page", "")}
        record |= {"content": " ".join(data.values()), "msgid": secrets.randbelow(10**18)}
        self.store.record_sent(record, channel="wechat_subscribe", to=openid, at=now)
        return self.answer({"errcode": 0, "errmsg": "ok", "msgid": record["msgid"]})


class GetTemplates(WechatHandler):
    """GET /wxaapi/newtmpl/gettemplate: the templates of this account, in the form the original gives them."""

    def get(self) -> None:
        if not self.has_token():
            return
        rows = []
        for template_id, kept in self.store.all("wechat_template").items():
            content = "\n".join(f"{key}:{{{{{key}.DATA}}}}" for key in kept["keys"])
            row = {"priTmplId": template_id, "title": kept.get("title", ""), "content": content, "example": ""}
            rows.append(row | {"type": 3 if kept.get("long_term") else 2})
        self.answer({"errcode": 0, "errmsg": "ok", "data": rows})


def register(sandbox: Sandbox, who: Person) -> None:
    """Remember that this person has opened the mini-program: from now on the openid exists for this appid."""
    sandbox.store.put("openid", who.openid, who.name)


def _kind(kind: str, account: str) -> str:
    return kind if account == "mini_program" else f"{kind}/{account}"


def _make_token(sandbox: Sandbox, kind: str, account: str) -> dict[str, Any]:
    now = sandbox.clock()
    # Callers must keep room for 512 bytes; long enough here to catch a column that is too short.
    token = f"{secrets.randbelow(90) + 10}_{secrets.token_urlsafe(224)}"[:300]
    kept = {"token": token, "made": now, "until": now + _TOKEN_LIVES_S}
    if sandbox.mishaps is not None:
        sandbox.mishaps.counts["tokens made"] += 1
    sandbox.store.put("wechat_token", token, {"until": kept["until"], "account": account})
    sandbox.store.put("wechat_current", _kind(kind, account), kept)
    return kept


def _take_grant(sandbox: Sandbox, openid: str, template_id: str) -> bool:
    """Use up one grant. Without any record the answer is yes: the hall keeps the ledger, and a sandbox that nobody
    told about grants should not stand in the way; a count set by /_sim/wechat/grants is kept exactly."""
    if sandbox.store.get("wechat_refused", openid):
        return False
    key = f"{openid}/{template_id}"
    count = sandbox.store.get("wechat_grant", key)
    if count is None:
        return True
    if count <= 0:
        return False
    sandbox.store.put("wechat_grant", key, count - 1)
    return True


routes = [
    (r"/sns/jscode2session", Jscode2Session),
    (r"/cgi-bin/token", Token),
    (r"/cgi-bin/stable_token", StableToken),
    (r"/wxa/business/getuserphonenumber", PhoneNumber),
    (r"/cgi-bin/message/subscribe/send", SubscribeSend),
    (r"/wxaapi/newtmpl/gettemplate", GetTemplates),
]
