"""What a resident asks for beside the straight way: a material later, an answer put right, the same again with the old data."""

from collections.abc import Mapping
from typing import Any

from app.kernel.errors import HallError
from handlers import pages_forms
from handlers.pages_base import errors_by_field
from handlers.pages_cases import ID, CasePage


class Promise(CasePage):
    """POST with the key of a material: promise it for later, or with `back=1` take that promise back."""

    async def post(self, case_id: str) -> None:
        view = await self.load(case_id)
        key = self.text("key", limit=60)
        keys = {promise["key"] for promise in view["promises"] if promise["met_at"] is None} - {key}
        if self.text("back") != "1":
            keys.add(key)
        await self.hall.requests.promise(case_id, self.owner, sorted(keys))
        self.redirect(f"/cases/{case_id}/materials#material-{key}", status=303)


class Correction(CasePage):
    """GET: the form as it stands, to be put right; POST: only what differs is asked for."""

    async def get(self, case_id: str) -> None:
        view = await self.load(case_id)
        if "correction" not in view["allowed_actions"]:
            return self.redirect(f"/cases/{case_id}", status=303)
        await self._show(view, view["form"]["values"])

    async def post(self, case_id: str) -> None:
        view = await self.load(case_id)
        values = view["form"]["values"]
        typed = pages_forms.read_values(_askable(view), self.form_fields)
        changed = {key: value for key, value in typed.items() if (value or None) != (values.get(key) or None)}
        reason = self.text("reason", limit=1000).strip()
        try:
            await self.hall.requests.correct(case_id, self.owner, changed, reason or "填写有误")
        except HallError as error:
            if error.status not in (409, 422):
                raise
            return await self._show(view, {**values, **typed}, error)
        self.redirect(f"/cases/{case_id}", status=303)

    async def _show(self, view: Mapping[str, Any], values: Mapping[str, Any], error: HallError | None = None) -> None:
        await self.show(
            "case_correct.html",
            error.status if error else 200,
            case=view,
            fields=_askable(view),
            values=values,
            reason=self.text("reason", limit=1000),
            f=pages_forms,
            divisions=self.divisions,
            division_groups=self.division_groups,
            advice={},
            conflicts={},
            error=error,
            errors=errors_by_field(error) if error else {},
            back=f"/cases/{view['id']}",
        )


def _askable(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # A photo is no answer to retype: its file is a material.
    return [field for field in view["form"]["fields"] if field["type"] != "photo" and "computed" not in field]


class Hearing(CasePage):
    """POST with `wanted` 1 or 0: ask for the hearing, or give it up."""

    async def post(self, case_id: str) -> None:
        await self.load(case_id)
        await self.hall.requests.hearing(case_id, self.owner, self.text("wanted") == "1")
        self.redirect(f"/cases/{case_id}", status=303)


class Again(CasePage):
    """POST: a draft of the same item with the answers and still valid materials of this case. Two taps make one."""

    async def post(self, case_id: str) -> None:
        old = await self.hall.cases.get(case_id, self.owner)
        draft = await self.hall.requests.apply_again(
            old.id, self.owner, old.item_code, old.division_code, {}, case_id=self.once("case")
        )
        self.redirect(f"/cases/{draft.id}/edit", status=303)


routes = [
    (rf"/cases/{ID}/hearing", Hearing),
    (rf"/cases/{ID}/promises", Promise),
    (rf"/cases/{ID}/correction", Correction),
    (rf"/cases/{ID}/again", Again),
]
