"""The real-name and face service. The behaviour by name is fixed in settings.md: 不符, 超时, 非本人."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from sandbox.base import StandIn
from sandbox.people import is_id_number


class RealnameHandler(StandIn):
    provider = "realname"

    async def person(self) -> tuple[str, str, dict[str, Any]] | None:
        """Read {name, id_number}; answers 400 or 422 itself. A name with 超时 gets no answer for a long time."""
        body = self.json_object()
        if body is None:
            self.refuse(400, "malformed", "请求体不是JSON对象")
            return None
        name, id_number = body.get("name"), body.get("id_number")
        if not isinstance(name, str) or not name.strip():
            self.refuse(422, "invalid_name", "姓名不能为空", field="name")
            return None
        if not isinstance(id_number, str) or not is_id_number(id_number):
            self.refuse(422, "invalid_id_number", "身份证号码校验不通过", field="id_number")
            return None
        if "超时" in name:
            await asyncio.sleep(self.sandbox.pace.slow_s)
            self.hang_up()
            return None
        return name, id_number, body


class Verify(RealnameHandler):
    """POST /realname/verify {name, id_number} -> {match}."""

    async def post(self) -> None:
        asked = await self.person()
        if asked:
            self.send({"match": "不符" not in asked[0]})


class FaceChecks(RealnameHandler):
    """POST /realname/face-checks {name, id_number, order_no} -> {id, client_params}; one per order_no."""

    async def post(self) -> None:
        asked = await self.person()
        if asked is None:
            return
        name, _, body = asked
        order_no = body.get("order_no")
        if not isinstance(order_no, str) or not 1 <= len(order_no) <= 64:
            return self.refuse(422, "invalid_order_no", "order_no 不正确", field="order_no")
        known = self.store.get("face_order", order_no)
        check_id = known["id"] if known else f"face_{secrets.token_hex(12)}"
        if not known:
            state = "failed" if "非本人" in name or "不符" in name else "passed"
            self.store.put("face_order", order_no, {"id": check_id})
            self.store.put("face_check", check_id, {"state": state})
        return self.send({"id": check_id, "client_params": {"certify_id": check_id, "biz_code": "FACE"}})


class FaceCheck(RealnameHandler):
    """GET /realname/face-checks/{id} -> {state}."""

    def get(self, check_id: str) -> None:
        kept = self.store.get("face_check", check_id)
        if kept is None:
            return self.refuse(404, "not_found", "没有这次核验")
        return self.send({"id": check_id, "state": kept["state"]})


routes = [
    (r"/realname/verify", Verify),
    (r"/realname/face-checks", FaceChecks),
    (r"/realname/face-checks/([\w-]+)", FaceCheck),
]
