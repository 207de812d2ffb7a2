"""The city's official account on WeChat: template messages to followers, who they are, and its events to the hall.

| call | does |
| --- | --- |
| `POST /_sim/wechat/follow {name, follows?, at?, mode?}` | a person follows the account, or stops; the hall is told |
| `POST /_sim/wechat/fate {msgid, status?, mode?}` | TEMPLATESENDJOBFINISH: `success`, `failed:user block`, `failed: system failed` |
| `POST /_sim/wechat/official-refuse {name, template_id}` | this person turns a template off (43101) |
"""

from __future__ import annotations

import secrets
from typing import Any

from sandbox import wechat_template
from sandbox.base import StandIn, rfc3339_utc
from sandbox.people import person
from sandbox.wechat import WechatHandler
from sandbox.wechat_push import Push, official

_MOST = 100
_PAGE = 3  # the original gives 10 000; few here, so that there is more than one page
_DEDUPED_S = 600  # client_msg_id


class TemplateSend(WechatHandler):
    """POST /cgi-bin/message/template/send: to followers only; the same client_msg_id within ten minutes is one message."""

    def post(self) -> None:
        if not self.has_token("official"):
            return
        body = self.json_object()
        if body is None:
            return self.fail(47001, "data format error")
        openid = body.get("touser")
        name = self.store.get("official_openid", openid) if isinstance(openid, str) else None
        if name is None:
            return self.fail(40003, "invalid openid")
        if not self.store.get("official_follows", openid):
            return self.fail(43004, "require subscribe")
        problem = self._problem(body)
        if problem:
            return self.fail(*problem)
        now, client_msg_id = self.now(), str(body.get("client_msg_id") or "")
        key = f"{openid}/{client_msg_id}"
        kept = self.store.get("official_sent", key) if client_msg_id else None
        if kept and now - kept["at"] < _DEDUPED_S:
            return self.answer({"errcode": 0, "errmsg": "ok", "msgid": kept["msgid"]})
        data = {field: part["value"] for field, part in body["data"].items()}
        msgid = secrets.randbelow(10**18)
        record = {"at": rfc3339_utc(now), "channel": "wechat_official", "to": openid, "openid": openid, "name": name}
        record |= {"template_id": body["template_id"], "data": data, "miniprogram": body.get("miniprogram"), "url": body.get("url", "")}
        record |= {"content": " ".join(data.values()), "msgid": msgid}
        self.store.record_sent(record, channel="wechat_official", to=openid, at=now)
        self.store.put("official_sent", key, {"at": now, "msgid": msgid})
        self.store.put("official_msgid", str(msgid), openid)
        return self.answer({"errcode": 0, "errmsg": "ok", "msgid": msgid})

    def _problem(self, body: dict[str, Any]) -> tuple[int, str] | None:
        link = body.get("miniprogram")
        if link is not None:
            if not isinstance(link, dict) or link.get("appid") != self.credentials.wechat_app_id:
                return 40013, "invalid appid"
            if not isinstance(link.get("pagepath"), str) or not link["pagepath"] or link["pagepath"].startswith("/"):
                return 40165, "invalid weapp pagepath"
        if self.store.get("official_refused", f"{body['touser']}/{body.get('template_id')}"):
            return 43101, "user refuse to accept the msg"
        return wechat_template.find_problem(self.store, body.get("template_id"), {"data": body.get("data")}, "official_template")


class UserInfo(WechatHandler):
    """POST /cgi-bin/user/info/batchget {user_list: [{openid}]}."""

    def post(self) -> None:
        if not self.has_token("official"):
            return
        rows = (self.json_object() or {}).get("user_list")
        if not isinstance(rows, list) or not 1 <= len(rows) <= _MOST:
            return self.fail(40032, "invalid openid list size")
        found = []
        for row in rows:
            openid = row.get("openid") if isinstance(row, dict) else None
            name = self.store.get("official_openid", openid) if isinstance(openid, str) else None
            if name is None:
                return self.fail(40003, "invalid openid")
            follows = bool(self.store.get("official_follows", openid))
            found.append({"subscribe": int(follows), "openid": openid, "unionid": person(name).unionid})
        return self.answer({"user_info_list": found})


class UserList(WechatHandler):
    """GET /cgi-bin/user/get?next_openid=: who follows, a page at a time, in the order of their openids."""

    def get(self) -> None:
        if not self.has_token("official"):
            return
        after = self.get_query_argument("next_openid", "")
        follows = sorted(openid for openid, value in self.store.all("official_follows").items() if value)
        page = [openid for openid in follows if openid > after][:_PAGE]
        answer = {"total": len(follows), "count": len(page), "next_openid": page[-1] if page else ""}
        self.answer(answer | ({"data": {"openid": page}} if page else {}))


class Follow(Push):
    """POST /_sim/wechat/follow; `silent`: the hall is not told, as before its callback was set."""

    async def post(self) -> None:
        body = self.body()
        who = self.person_in(body)
        if who is None:
            return
        follows = body.get("follows", True) is not False
        self.store.put("official_openid", who.official_openid, who.name)
        self.store.put("official_follows", who.official_openid, follows)
        if body.get("silent"):
            return self.send({"ok": True})
        message = {"ToUserName": "gh_city_sandbox", "FromUserName": who.official_openid, "CreateTime": int(body.get("at") or self.now())}
        message |= {"MsgType": "event", "Event": "subscribe" if follows else "unsubscribe", "EventKey": ""}
        await self.push(official(self.credentials), message, {"format": "xml"} | body)


class Fate(Push):
    """POST /_sim/wechat/fate."""

    async def post(self) -> None:
        body = self.body()
        openid = self.store.get("official_msgid", str(body.get("msgid", "")))
        if openid is None:
            return self.refuse(404, "unknown_msgid", "没有这条模板消息")
        message = {"ToUserName": "gh_city_sandbox", "FromUserName": openid, "CreateTime": int(self.now()), "MsgType": "event"}
        message |= {"Event": "TEMPLATESENDJOBFINISH", "MsgID": int(body["msgid"]), "Status": str(body.get("status", "success"))}
        await self.push(official(self.credentials), message, {"format": "xml"} | body)


class Refuse(Push):
    """POST /_sim/wechat/official-refuse."""

    async def post(self) -> None:
        body = self.body()
        who = self.person_in(body)
        if who:
            self.store.put("official_refused", f"{who.official_openid}/{body.get('template_id')}", True)
            self.send({"ok": True})


routes: list[tuple[str, type[StandIn]]] = [
    (r"/cgi-bin/message/template/send", TemplateSend),
    (r"/cgi-bin/user/info/batchget", UserInfo),
    (r"/cgi-bin/user/get", UserList),
    (r"/_sim/wechat/follow", Follow),
    (r"/_sim/wechat/fate", Fate),
    (r"/_sim/wechat/official-refuse", Refuse),
]
