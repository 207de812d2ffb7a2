"""Window intake as pages: who stands here, what they want, the form and the materials on one page, their confirmation, the printed receipt."""

from collections.abc import Mapping
from typing import Any

from app.cases import errors
from app.cases.drafts import Save
from app.cases.model import Case
from app.kernel.errors import HallError, ValidationFailed
from handlers import pages_forms
from handlers.pages_base import errors_by_field
from handlers.pages_staff import ID, StaffPage, items_of


class Start(StaffPage):
    async def get(self) -> None:
        await self._show()

    async def post(self) -> None:
        asked = {name: self.text(name, limit=60).strip() for name in _ASKED}
        try:
            case = await self.hall.intake.open(self.staff, asked, case_id=self.once("case"))
        except HallError as error:
            if error.status not in (403, 404, 422):
                raise
            return await self._show(error, asked)
        self.redirect(f"/staff/intake/{case.id}", status=303)

    async def _show(self, error: HallError | None = None, asked: Mapping[str, str] | None = None) -> None:
        await self.show(
            "staff_intake.html",
            error.status if error else 200,
            items=items_of(self.hall, self.staff.agency_id),
            drafts=await self.hall.intake.drafts(self.staff),
            asked=asked or {},
            division_groups=self.division_groups,
            division=(asked or {}).get("division_code") or self.division,
            error=error,
            errors=errors_by_field(error) if error else {},
        )


_ASKED = ("item_code", "division_code", "name", "id_number", "phone")


class Fill(StaffPage):
    """GET: form and materials; POST: keep the answers, and with `do=submit` hand in what the resident has confirmed."""

    async def get(self, case_id: str) -> None:
        await self._show(await self.hall.intake.get(case_id, self.staff))

    async def post(self, case_id: str) -> None:
        case = await self.hall.intake.get(case_id, self.staff, "save")
        view = await self.hall.cases.view(case)
        page = pages_forms.read_page(view, self.form_fields)
        save = Save(page.changed_form, page.changed_answers, page.version, merge=True)
        try:
            case = await self.hall.cases.drafts.save(case_id, case.owner_id, save)
            if self.text("do") == "submit":
                if self.text("confirmed") != "1":
                    raise ValidationFailed([{"pointer": "/confirmed", "code": "required", "detail": "请申请人核对后，勾选“申请人已当面确认”"}])
                await self.hall.intake.submit(case_id, self.staff, command=self.once("cmd"))
                return self.redirect(f"/staff/intake/{case_id}/receipt", status=303)
        except (ValidationFailed, errors.DraftConflict) as error:
            return await self._show(await self.hall.intake.get(case_id, self.staff), error, page)
        self.redirect(f"/staff/intake/{case_id}#saved", status=303)

    async def _show(self, case: Case, error: HallError | None = None, page: pages_forms.Page | None = None) -> None:
        view = await self.hall.cases.view(case)
        conflicts: dict[str, Any] = {}
        if isinstance(error, errors.DraftConflict):
            conflicts = pages_forms.conflicts(view, error.answer_only["conflicts"], self.divisions)
        is_refused = page is not None and isinstance(error, ValidationFailed) and case.version == page.version
        await self.show(
            "staff_intake_case.html",
            error.status if error else 200,
            case=view,
            item=view,
            fields=view["form"]["fields"],
            values={**view["form"]["values"], **(page.form if page and error else {})},
            answers={**view["answers"], **(page.answers if page and error else {})},
            version=page.version if page and is_refused else view["version"],
            base=page.base if page and is_refused else pages_forms.base(view),
            conflicts=conflicts,
            advice={row["pointer"].rsplit("/", 1)[-1]: row["detail"] for row in view["form"]["advice"]},
            divisions=self.divisions,
            division_groups=self.division_groups,
            f=pages_forms,
            error=error,
            errors=errors_by_field(error) if error else {},
        )


class Upload(StaffPage):
    async def get(self, case_id: str, _key: str) -> None:
        self.redirect(f"/staff/intake/{case_id}", status=303)

    async def post(self, case_id: str, key: str) -> None:
        case = await self.hall.intake.get(case_id, self.staff, "material")
        if gone := self.text("remove", limit=40):
            await self.hall.cases.remove_material(case_id, case.owner_id, key, gone)
        for upload in self.request.files.get("file", []):
            await self.hall.cases.put_material(case_id, case.owner_id, key, upload.filename, upload.body)
        self.redirect(f"/staff/intake/{case_id}#material-{key}", status=303)


class Receipt(StaffPage):
    async def get(self, case_id: str) -> None:
        case = await self.hall.intake.receipt(case_id, self.staff)
        view = await self.hall.cases.view(case)
        await self.show("staff_intake_receipt.html", case=view, divisions=self.divisions)


routes = [
    (r"/staff/intake", Start),
    (rf"/staff/intake/{ID}", Fill),
    (rf"/staff/intake/{ID}/materials/(\w+)", Upload),
    (rf"/staff/intake/{ID}/receipt", Receipt),
]
