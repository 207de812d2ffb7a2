"""办, first step: the questions before a draft, and its form. What is typed is never lost: half-typed, wrong, old or on two devices."""

from collections.abc import Mapping
from typing import Any

from app.cases import errors, forms, materials
from app.cases.completeness import facts_of
from app.cases.drafts import Save, beginning
from app.cases.model import Case, State
from app.kernel.clock import SHANGHAI, today
from app.kernel.errors import ErrorRow, HallError, ValidationFailed
from handlers import pages_forms, pages_text
from handlers.pages_base import errors_by_field
from handlers.pages_cases import ID, CasePage


class Apply(CasePage):
    """GET: the questions before a draft is made; POST: make it. Two taps on the button, or two tabs side by side, make one draft."""

    async def get(self, code: str) -> None:
        if self._item(code)["service_kind"] != "handle":
            return self.redirect(f"/items/{code}", status=303)
        await self._ask(code, pages_forms.read_answers(self._item(code)["situations"], self._query_lists()))

    async def post(self, code: str) -> None:
        item = self._item(code)
        answers = pages_forms.read_answers(item["situations"], self.form_fields)
        case_id, after, division = self.once("case"), self.text("after", limit=40), self.text("division", limit=12)
        drafts = self.hall.cases.drafts
        case = await drafts.newest(self.owner, item["code"])
        if case is None or case.id == after:
            try:
                # Two tabs that were opened side by side come here at once: the name lets one of them begin, and both get its draft.
                begun_as = beginning(self.owner, item["code"], after)
                case = await drafts.open(self.owner, item["code"], division, answers, case_id=case_id, begun_as=begun_as)
            except ValidationFailed as error:
                return await self._ask(code, answers, error)
        is_same = case.state is State.DRAFT and (case.division_code, case.answers) == (division, answers)
        if case.id == case_id or is_same:
            return self.redirect(f"/cases/{case.id}/edit", status=303)
        # Begun meanwhile in another tab or another app, and otherwise: shown first, and beginning anew here is still possible.
        await self._ask(code, answers, errors.CaseConflict("这件事您刚在别处开始办了，看看上面那一件；确实要另办一件，再点一次。"))

    async def _ask(self, code: str, answers: Mapping[str, Any], error: HallError | None = None) -> None:
        item = self._item(code)
        newest = await self.hall.cases.drafts.newest(self.owner, item["code"])
        await self.show(
            "apply.html",
            error.status if error else 200,
            item=item,
            answers=answers,
            level=int(item["identity_level"][1:]),
            reached=self.resident.level,
            divisions=self.divisions,
            division_groups=self.division_groups,
            division=self.text("division", self.division, 12),
            after=newest.id if newest else "",
            open_cases=await self.hall.cases.drafts.open_cases(self.owner, item["code"]),
            error=error,
            errors=errors_by_field(error) if error else {},
            back=f"/items/{code}",
        )

    def _item(self, code: str) -> Mapping[str, Any]:
        item: Mapping[str, Any] = self.hall.catalogue.item(code)
        return item

    def _query_lists(self) -> dict[str, list[str]]:
        return {name: self.get_query_arguments(name) for name in self.request.query_arguments}


class Edit(CasePage):
    """The form. Only what differs from what the page was given is sent on, with the version it was given at (pages_forms.py)."""

    async def get(self, case_id: str) -> None:
        view = await self.load_editable(case_id)
        await self._show(view, view["form"]["values"], view["answers"])

    async def post(self, case_id: str) -> None:
        view = await self.load_editable(case_id)
        page = pages_forms.read_page(view, self.form_fields)
        try:
            case = await self.hall.cases.drafts.save(
                case_id, self.owner, Save(page.changed_form, page.changed_answers, page.version, merge=True)
            )
        except errors.DraftConflict as error:
            return await self._answer_conflict(case_id, page, error)
        except ValidationFailed as error:
            if self._is_autosave:
                raise
            return await self._show(view, page.form, page.answers, page=page, error=error)
        if self._is_autosave:
            return await self.answer(await self._saved(case, page))
        if self.text("do") != "next":
            return self.redirect(f"/cases/{case_id}/edit#saved", status=303)
        if wrong := await self._wrong(case):
            view = await self.hall.cases.view(case)
            return await self._show(view, view["form"]["values"], view["answers"], error=ValidationFailed(wrong))
        self.redirect(f"/cases/{case_id}/materials", status=303)

    @property
    def _is_autosave(self) -> bool:
        return self.request.headers.get("X-Hall-Autosave") == "1"

    async def _wrong(self, case: Case) -> list[ErrorRow]:
        """Return what submitting would say of the form: the domain's own judgement, only earlier."""
        item = await self.hall.catalogue.item_at(case.item_code, case.item_version)
        facts = facts_of(case, today(), self.hall.catalogue.division_codes)
        # A photo may still come in the next step.
        photos = frozenset({*facts.fields_with_files, *materials.photo_fields(item)})
        return forms.judge(item, case.answers, case.form, forms.Facts(facts.today, facts.division_codes, photos))[1]

    async def _saved(self, case: Case, page: pages_forms.Page) -> dict[str, Any]:
        """Return what the page's script must know after a save: version, what is stored now, and what the hall says of it."""
        view = await self.hall.cases.view(case)
        fields = view["form"]["fields"]
        return {
            "version": case.version,
            "saved_at": case.updated_at.astimezone(SHANGHAI).strftime("%H:%M"),
            "base": pages_forms.base(view),
            "elsewhere": pages_forms.elsewhere(view, page),
            "computed": {
                field["key"]: pages_text.shown(field, case.form[field["key"]], self.divisions)
                for field in fields
                if "computed" in field and field["key"] in case.form
            },
            "advice": {row["pointer"].rsplit("/", 1)[-1]: row["detail"] for row in view["form"]["advice"]},
            "left": pages_forms.left(fields, await self._wrong(case)),
            # Another answer to a question, or a newer form: other fields are asked than stand on the page.
            "is_other_form": bool(page.base) and set(page.base) != set(pages_forms.base(view)),
        }

    async def _answer_conflict(self, case_id: str, page: pages_forms.Page, error: errors.DraftConflict) -> None:
        """Both answers to each field that differs: as a page, or for the script, which draws the same choice into its page."""
        case = await self.hall.cases.get(case_id, self.owner)
        view = await self.hall.cases.view(case)
        conflicts = pages_forms.conflicts(view, error.answer_only["conflicts"], self.divisions)
        if not self._is_autosave:
            mine = {part: {**stored, **own} for part, stored, own in (
                ("form", view["form"]["values"], page.changed_form), ("answers", view["answers"], page.changed_answers),
            )}  # fmt: skip
            return await self._show(view, mine["form"], mine["answers"], error=error, conflicts=conflicts)
        boxes = [
            {"name": row["name"], "html": self.render_string("conflict.html", conflict=row).decode()} for row in conflicts.values()
        ]
        # Elsewhere holds what lies in the fields without a choice, too: their inputs follow, the disputed ones stay.
        await self.answer(await self._saved(case, page) | {"conflicts": boxes, "detail": error.detail}, error.status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if self._is_autosave and isinstance(error, HallError):
            return self.answer_problem(error)
        super().write_error(status_code, **kwargs)

    async def _show(
        self,
        view: Mapping[str, Any],
        values: Mapping[str, Any],
        answers: Mapping[str, Any],
        *,
        page: pages_forms.Page | None = None,
        error: HallError | None = None,
        conflicts: Mapping[str, Any] | None = None,
    ) -> None:
        fields = view["form"]["fields"]
        case = await self.hall.cases.get(view["id"], self.owner)
        await self.show(
            "case_edit.html",
            error.status if error else 200,
            case=view,
            item=view,
            fields=fields,
            values=values,
            answers=answers,
            # What was refused was not saved: the page stays as of the version it knew.
            version=page.version if page else view["version"],
            base=page.base if page else pages_forms.base(view),
            conflicts=conflicts or {},
            left=pages_forms.left(fields, await self._wrong(case)),
            advice={row["pointer"].rsplit("/", 1)[-1]: row["detail"] for row in view["form"]["advice"]},
            dropped=[(kept["label"], pages_forms.plain(kept["value"])) for kept in view["form_dropped"].values()],
            divisions=self.divisions,
            division_groups=self.division_groups,
            f=pages_forms,
            error=error,
            errors=errors_by_field(error) if error else {},
            back=f"/cases/{view['id']}" if view["state"] != State.DRAFT.value else "/cases",
        )


routes = [(r"/apply/(\w+)", Apply), (rf"/cases/{ID}/edit", Edit)]
