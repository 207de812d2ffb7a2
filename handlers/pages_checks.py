"""查 and 缴: asking a department about one's own matter, and finding the bills to pay."""

from collections.abc import Mapping
from typing import Any

from app.kernel.errors import HallError, NotFound
from handlers import pages_forms
from handlers.pages_base import PageHandler, errors_by_field

_OWN_IDENTITY = ("id_number", "name")
_REAL_NAME = 3
OPEN_STATES = ("open", "paying")


class CheckKinds(PageHandler):
    tab = "home"

    async def get(self) -> None:
        await self.show("check_kinds.html", kinds=self.hall.checks.kinds()["items"], back="/")


class BillKinds(PageHandler):
    """The door 缴: what can be paid, and what waits to be paid."""

    tab = "home"

    async def get(self) -> None:
        waiting = []
        if self.signed_in is not None:
            waiting, _more = await self.hall.payments.list_orders(self.signed_in.resident_id, states=OPEN_STATES, limit=5)
        await self.show("bill_kinds.html", kinds=self.hall.checks.kinds()["bill_kinds"], open_orders=waiting, back="/")


class AskPage(PageHandler):
    """A form of a kind and, after asking, the answer above it."""

    needs = "resident"
    tab = "home"
    pays = False

    async def get(self, name: str) -> None:
        await self._show(name, {})

    async def post(self, name: str) -> None:
        kind = self._kind(name)
        typed = {field["key"]: self.text(field["key"], limit=64).strip() for field in kind["inputs"]}
        given = {key: value for key, value in typed.items() if value}
        try:
            answer = await self._ask(name, given)
        except HallError as error:
            if error.status not in (422, 503):
                raise
            return await self._show(name, typed, error=error)
        await self._show(name, typed, answer=answer)

    async def _show(
        self, name: str, typed: Mapping[str, str], *, answer: Mapping[str, Any] | None = None, error: HallError | None = None
    ) -> None:
        kind = self._kind(name)
        level = int(kind["identity_level"][1:])
        await self.show(
            "check.html",
            error.status if error else 200,
            kind=kind,
            inputs=kind["inputs"],
            typed=typed,
            answer=answer,
            level=level,
            reached=self.resident.level,
            pays=self.pays,
            action=self.request.path,
            f=pages_forms,
            error=error,
            errors=errors_by_field(error, "/inputs/") if error else {},
            back="/pay" if self.pays else "/checks",
        )

    def _kind(self, name: str) -> dict[str, Any]:
        raise NotImplementedError

    async def _ask(self, name: str, given: Mapping[str, str]) -> dict[str, Any]:
        raise NotImplementedError


class Check(AskPage):
    async def get(self, name: str) -> None:
        if name == "case_progress":
            return self.redirect("/progress", status=303)
        await super().get(name)

    def _kind(self, name: str) -> dict[str, Any]:
        return found(self.hall.checks.kinds()["items"], name)

    async def _ask(self, name: str, given: Mapping[str, str]) -> dict[str, Any]:
        answer: dict[str, Any] = await self.hall.checks.run(name, given, self.resident.resident_id)
        return answer


class Bills(AskPage):
    pays = True

    def _kind(self, name: str) -> dict[str, Any]:
        kind = found(self.hall.checks.kinds()["bill_kinds"], name)
        if self.resident.level < _REAL_NAME:
            return kind
        if kind["identity"] != "own":  # somebody else's may be typed, his own are known
            return {**kind, "own_known": any(field["key"] in _OWN_IDENTITY for field in kind["inputs"])}
        # His own name and number are known and nobody else's count: they need not be typed again.
        inputs = [field for field in kind["inputs"] if field["key"] not in _OWN_IDENTITY]
        key_sets = [row for row in kind["key_sets"] if not set(row["keys"]) & set(_OWN_IDENTITY)]
        # Only where they are enough by themselves there is nothing left to type.
        is_enough = any(set(row["keys"]) <= set(_OWN_IDENTITY) for row in kind["key_sets"])
        return {**kind, "inputs": inputs, "key_sets": key_sets, "by_own_identity": is_enough}

    async def _ask(self, name: str, given: Mapping[str, str]) -> dict[str, Any]:
        answer: dict[str, Any] = await self.hall.checks.lookup_bills(name, given, self.resident.resident_id)
        return answer


def found(kinds: Any, name: str) -> dict[str, Any]:
    """Return the kind of this name. Raises NotFound."""
    for kind in kinds:
        if kind["kind"] == name:
            return dict(kind)
    raise NotFound("没有这一项，它可能已经改名。请从列表里重新选。")


routes = [
    (r"/checks", CheckKinds),
    (r"/checks/(\w+)", Check),
    (r"/pay", BillKinds),
    (r"/pay/(\w+)", Bills),
]
