"""The hidden side of the sandbox, /_sim/...: what residents, platforms and bad luck do in a test.

| call | does |
| --- | --- |
| `POST /_sim/pay` {provider, out_trade_no, outcome, client_params?} | the resident finishes in the cashier |
| `GET /_sim/sent?channel=&to=&after=` | everything that went out, newest last |
| `GET /_sim/trades?out_trade_no=` | trades and the story of their notices |
| `POST /_sim/notices/hurry` {out_trade_no?} | what waits for its next try goes out now |
| `GET, POST /_sim/faults` {provider, mode, count?} | bad luck, see base.FAULT_MODES |
| `POST /_sim/reports` {channel, to?, statuses?, delay_s?, repeat?, early?, forged?} | what the gateway reports, see reports.py |
| `POST /_sim/jpush/phones` {registration_id, has} | whether a phone gets what JPush sends it, see jpush.py |
| `POST /_sim/apns/devices` {token, status, reason?, timestamp?} | what Apple says of a device, see apns.py |
| `POST /_sim/people` {name} | makes a person known to both apps and shows phone, openid, user_id |
| `POST /_sim/wechat/grants`, `/_sim/wechat/refuse`, `/_sim/alipay/refuse`, `/_sim/wechat/templates` | who may be told |
| `POST /_sim/wechat/push`, `/_sim/wechat/verify-server` | WeChat's message push to the hall |
| `POST /_sim/wechat/say` {name, text} | a person writes to the mini-program, see wechat_customer.py |
| `POST /_sim/hooks` {app, secret, algorithm?} | a department's system learns the secret of its web hook, see hooks.py |
| `/_sim/wechat/follow`, `/_sim/wechat/fate`, `/_sim/wechat/official-refuse` | the city's official account, see official_account.py |
| `POST /_sim/alipay/ids` {ids} | which identifiers a sign-in gives: user_id, both (the beginning), open_id |
| `GET /_sim/alipay/phone?name=` | the sealed phone number of my.getPhoneNumber |
| `POST /_sim/mishaps` {seed, marker, shares} | bad luck by script for each single call to a message vendor, see mishaps.py |
| `/_sim/storm`, `/_sim/refunds`, `/_sim/certificates`, `/_sim/clock` | see control_money.py |
| `POST /_sim/department_bills` {id, state?, late_fee_fen?, hard_deadline?} | the department changes its bill, see departments.py |
| `POST /_sim/reset` {what: bills, sent, faults} | back to the beginning |
| `GET /_sim/cashier`, `/_sim/login` | pages in the place of the platforms' own apps |
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from sandbox import alipay, alipay_client, bills, cashier, paying, wechat
from sandbox.base import FAULT_MODES, FAULT_PROVIDERS, StandIn, rfc3339_utc
from sandbox.people import Person, person, person_of_code
from sandbox.store import Trade

_GROUPS = {"payments": ("wechatpay", "alipay")}
_CHANNELS = {
    "sms": "sms",
    "calls": "voice",
    "subscribe_messages": "wechat_subscribe",
    "alipay_messages": "alipay_message",
    "pushes": "jpush",
    "apple_pushes": "apns",
    "emails": "email",
    "template_messages": "wechat_official",
    "hooks": "hook",
    "customer_messages": "wechat_customer",
}


class Control(StandIn):
    """Reads JSON or a form, so that a page without script can do all a test can."""

    def body(self) -> dict[str, Any]:
        if "json" in self.request.headers.get("Content-Type", "json"):
            return self.json_object() or {}
        return dict(parse_qsl(self.request.body.decode(errors="replace"), keep_blank_values=True))

    def person_in(self, body: dict[str, Any]) -> Person | None:
        """Read {name} or {openid}; answers 422 itself when neither names a person."""
        name = body.get("name") or self.store.get("openid", str(body.get("openid", "")))
        who = person_of_code(f"sim-{name}") if name else None
        if who is None:
            self.refuse(422, "unknown_person", "请给出 name，或已登录过的 openid")
        return who


class Pay(Control):
    """POST /_sim/pay {provider, out_trade_no, outcome}: the resident in the cashier."""

    def post(self) -> None:
        body = self.body()
        provider, outcome = body.get("provider"), body.get("outcome", "success")
        if provider not in paying.PROVIDERS or outcome not in paying.OUTCOMES:
            known = {"providers": paying.PROVIDERS, "outcomes": paying.OUTCOMES}
            return self.refuse(422, "unknown_outcome", "provider 或 outcome 不正确", **known)
        given = body.get("client_params")
        if provider == "alipay" and isinstance(given, dict) and ("orderStr" in given or "redirect_url" in given):
            # The payer's device brings the trade: it exists from here on.
            arrived = alipay_client.arrive_with(self.sandbox, str(given.get("orderStr") or given.get("redirect_url")))
            if isinstance(arrived, str):
                return self.refuse(400, "pay_sign", arrived)
        trade = paying.find_trade(self.sandbox, provider, {name: str(body.get(name) or "") for name in cashier.HANDLES})
        if trade is None:
            return self.refuse(404, "unknown_trade", "没有这笔订单")
        if provider == "wechatpay" and isinstance(body.get("client_params"), dict):
            problem = cashier.find_client_problem(self.sandbox, trade, body["client_params"])
            if problem:
                return self.refuse(400, "pay_sign", problem)
        message = "支付未完成" if outcome == "fail" else "支付成功"
        try:
            trade = paying.pay(self.sandbox, trade, outcome)
        except paying.NotPayable as refused:
            if "back" in body:
                return cashier.show_result(self, trade, body, ok=False, message=refused.args[1])
            return self.refuse(409, refused.args[0], refused.args[1], trade_state=paying.state_word(self.sandbox, trade))
        if "back" in body:
            return cashier.show_result(self, trade, body, ok=outcome != "fail", message=message)
        return self.send({"ok": True, "trade_state": paying.state_word(self.sandbox, trade), "trade_no": trade.trade_id})


class Sent(Control):
    """GET /_sim/sent?channel=&to=&after=: everything that went out, newest last."""

    def get(self) -> None:
        wanted = {name: self.get_query_argument(name, None) or None for name in ("channel", "to", "after")}
        if wanted["after"] and "T" not in wanted["after"] and not wanted["after"].isdecimal():
            return self.refuse(422, "invalid_after", "after 应为 id 或 UTC 时间")
        if wanted["channel"] in _CHANNELS:
            wanted["channel"] = _CHANNELS[wanted["channel"]]
        items = self.store.sent(wanted["channel"], wanted["to"], wanted["after"])
        groups = {
            name: [item for item in items if item["channel"] == channel] for name, channel in _CHANNELS.items()
        }
        return self.send({"items": items} | groups)


class Trades(Control):
    """GET /_sim/trades?out_trade_no=: trades with the story of their notices."""

    def get(self) -> None:
        found = self.store.trades(self.get_query_argument("out_trade_no", None))
        self.send({"items": [self._shown(trade) for trade in found]})

    def _shown(self, trade: Trade) -> dict[str, Any]:
        notices = [
            {
                "id": notice.notice_id,
                "attempts": notice.attempts,
                "last_result": notice.last_result,
                "next_at": rfc3339_utc(notice.next_at) if notice.next_at else None,
                "delivered_at": rfc3339_utc(notice.delivered_at) if notice.delivered_at else None,
            }
            for notice in self.store.notices(trade.out_trade_no)
            if notice.provider == trade.provider
        ]
        return {
            "provider": trade.provider,
            "out_trade_no": trade.out_trade_no,
            "trade_no": trade.trade_id,
            "trade_state": paying.state_word(self.sandbox, trade),
            "title": trade.title,
            "amount_fen": trade.amount_fen,
            "reported_fen": trade.reported_fen,
            "payer": trade.payer,
            "notify_url": trade.notify_url,
            "created_at": rfc3339_utc(trade.created_at),
            "paid_at": rfc3339_utc(trade.paid_at) if trade.paid_at else None,
            "notices": notices,
        }


class HurryNotices(Control):
    """POST /_sim/notices/hurry {out_trade_no?}: send now what waits for its next try."""

    def post(self) -> None:
        number = self.body().get("out_trade_no")
        moved = self.store.hurry_notices(self.now(), None if number is None else str(number))
        if self.sandbox.courier:
            self.sandbox.courier.wake()
        self.send({"ok": True, "hurried": moved})


class Faults(Control):
    """GET and POST /_sim/faults {provider, mode, count?}; `payments` means both providers, `all` every one."""

    def get(self) -> None:
        self.send({"faults": self.sandbox.faults.listed(), "modes": FAULT_MODES, "providers": FAULT_PROVIDERS})

    def post(self) -> None:
        body = self.body()
        provider, mode, count = body.get("provider"), body.get("mode"), body.get("count")
        names = FAULT_PROVIDERS if provider == "all" else _GROUPS.get(str(provider), (str(provider),))
        if mode not in FAULT_MODES or not set(names) <= set(FAULT_PROVIDERS):
            known = {"modes": FAULT_MODES, "providers": (*FAULT_PROVIDERS, *_GROUPS, "all")}
            return self.refuse(422, "unknown_fault", "provider 或 mode 不正确", **known)
        if count is not None and (type(count) is not int or count < 1):
            return self.refuse(422, "invalid_count", "count 应为正整数")
        for name in names:
            self.sandbox.faults.set(name, mode, count)
        return self.send({"ok": True, "faults": self.sandbox.faults.listed()})


class Reset(Control):
    """POST /_sim/reset {what: bills|sent|faults}: sample bills as in the file; nothing sent; nothing broken."""

    def post(self) -> None:
        what = self.body().get("what")
        if what == "bills":
            forgotten = sum(self.store.drop(kind) for kind in bills.FACTS)
        elif what == "sent":
            forgotten = self.store.forget_sent()
        elif what == "faults":
            forgotten = len(self.sandbox.faults.listed())
            for name in FAULT_PROVIDERS:
                self.sandbox.faults.set(name, "none", None)
        else:
            return self.refuse(422, "unknown_what", "what 应为 bills、sent 或 faults")
        return self.send({"ok": True, "forgotten": forgotten})


class People(Control):
    """POST /_sim/people {name}: make the person known to both apps, as a sign-in would, and show what they are."""

    def post(self) -> None:
        who = self.person_in(self.body())
        if who is None:
            return
        wechat.register(self.sandbox, who)
        alipay.register(self.sandbox, who)
        self.send(
            {
                "name": who.name,
                "phone": who.phone,
                "code": f"sim-{who.name}",
                "wechat": {"openid": who.openid, "unionid": who.unionid},
                "alipay": {"user_id": who.alipay_user_id, "open_id": who.alipay_open_id},
            }
        )


class WechatGrants(Control):
    """POST /_sim/wechat/grants {openid|name, template_id, count}: from now on this count is kept exactly."""

    def post(self) -> None:
        body = self.body()
        openid = body.get("openid") or person(str(body.get("name", ""))).openid
        template_id, count = body.get("template_id"), body.get("count")
        if not isinstance(template_id, str) or not isinstance(count, int) or count < 0:
            return self.refuse(422, "invalid_grant", "template_id 与 count 不正确")
        self.store.put("wechat_grant", f"{openid}/{template_id}", count)
        return self.send({"ok": True, "openid": openid, "template_id": template_id, "count": count})


class WechatRefuse(Control):
    """POST /_sim/wechat/refuse {name, refuse?}: this person refuses every template (43101); false lifts it."""

    def post(self) -> None:
        body = self.body()
        who = self.person_in(body)
        if who is None:
            return
        refuse = body.get("refuse", True) is not False
        for kind, key in (("wechat_refused", who.openid), ("alipay_refused", who.alipay_open_id)):
            if self.request.path.startswith(f"/_sim/{kind.split('_')[0]}/"):
                self.store.put(kind, key, True) if refuse else self.store.drop(kind, key)
        self.send({"ok": True, "refused": refuse})


class WechatTemplates(Control):
    """POST /_sim/wechat/templates {templates: [{template_id, keys, title?, long_term?}]}: what the console holds."""

    def post(self) -> None:
        rows = self.body().get("templates")
        if not isinstance(rows, list) or not all(_is_template(row) for row in rows):
            return self.refuse(422, "invalid_templates", "templates 应为列表，每项有 template_id 和 keys")
        for row in rows:
            kept = {"keys": sorted(row["keys"]), "title": row.get("title", ""), "long_term": bool(row.get("long_term"))}
            self.store.put("wechat_template", row["template_id"], kept)
        return self.send({"ok": True, "templates": len(rows)})


class AlipayIds(Control):
    """POST /_sim/alipay/ids {ids: user_id|both|open_id}: how far the application has come on its way from user_id to open_id."""

    def post(self) -> None:
        ids = self.body().get("ids")
        if ids not in ("user_id", "both", "open_id"):
            return self.refuse(422, "invalid_ids", "ids 应为 user_id、both 或 open_id")
        self.store.put("alipay_ids", "ids", ids)
        return self.send({"ok": True, "ids": ids})


class AlipayPhone(Control):
    """GET /_sim/alipay/phone?name=: what my.getPhoneNumber hands the mini-program of this person."""

    def get(self) -> None:
        who = self.person_in({"name": self.get_query_argument("name", "")})
        if who:
            self.send(alipay.phone_payload(self.sandbox, who))


def _is_template(row: Any) -> bool:
    keys = row.get("keys") if isinstance(row, dict) else None
    return isinstance(keys, list) and bool(keys) and all(isinstance(key, str) for key in keys) and (
        isinstance(row.get("template_id"), str)
    )


routes = [
    (r"/_sim/pay", Pay),
    (r"/_sim/sent", Sent),
    (r"/_sim/trades", Trades),
    (r"/_sim/notices/hurry", HurryNotices),
    (r"/_sim/faults", Faults),
    (r"/_sim/reset", Reset),
    (r"/_sim/people", People),
    (r"/_sim/wechat/grants", WechatGrants),
    (r"/_sim/(?:wechat|alipay)/refuse", WechatRefuse),
    (r"/_sim/wechat/templates", WechatTemplates),
    (r"/_sim/alipay/ids", AlipayIds),
    (r"/_sim/alipay/phone", AlipayPhone),
]
