"""Window intake as pages: who stands here, what they want or bring, form and materials on one page, their confirmation, the printed receipt."""

import re
from collections.abc import Mapping
from typing import Any

from app.cases import errors
from app.cases.drafts import Save
from app.cases.model import Case, State
from app.catalogue.load import COUNTY_BODY
from app.kernel.errors import HallError, ValidationFailed
from handlers import pages_forms
from handlers.intake import SupplementAtWindowRequest, handed_in_row
from handlers.pages_base import errors_by_field
from handlers.pages_cases import stale_keys
from handlers.pages_pay import qr
from handlers.pages_staff import ID, StaffPage, items_of
from handlers.problems import judged


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

    async def _show(
        self, error: HallError | None = None, asked: Mapping[str, str] | None = None, brought: Mapping[str, str] | None = None
    ) -> None:
        await self.show(
            "staff_intake.html",
            error.status if error else 200,
            items=self._items(),
            brought=brought or {},
            drafts=await self.hall.intake.drafts(self.staff),
            asked=asked or {},
            division_groups=self.division_groups,
            division=(asked or {}).get("division_code") or self.division,
            error=error,
            errors=errors_by_field(error) if error else {},
        )


    def _items(self) -> dict[str, dict[str, str]]:
        """Return the items to choose from by the name of their agency: the own, at the hall's window everybody's."""
        agency = self.hall.catalogue.agency
        if not self.hall.intake.is_general(self.staff):
            return {agency(self.staff.agency_id)["name"]: items_of(self.hall, self.staff.agency_id)}
        # A county's items are its city's: who handles one follows from the place that is chosen.
        rows = [row for row in self.hall.catalogue.snapshot.catalogue.agencies if row["level"] != COUNTY_BODY]
        found = {row["name"]: items_of(self.hall, row["id"]) for row in rows}
        return {name: items for name, items in found.items() if items}


class Supplement(Start):
    """POST: open what a notice asks for, for the applicant whose identity card the clerk has in hand."""

    async def get(self) -> None:
        self.redirect("/staff/intake", status=303)

    async def post(self) -> None:
        brought = {name: self.text(name, limit=60).strip() for name in ("number", "name", "id_number")}
        try:
            case = await self.hall.intake.open_supplement(self.staff, **judged(SupplementAtWindowRequest, brought, ""))
        except HallError as error:
            if error.status not in (404, 409, 422):
                raise
            return await self._show(error, brought=brought)
        self.redirect(f"/staff/intake/{case.id}", status=303)


class HandedIn(StaffPage):
    """What this clerk has taken in: how far each is, and its receipt once more."""

    async def get(self) -> None:
        cursor = self.text("cursor", limit=40)
        cases, following = await self.hall.intake.handed_in(self.staff, cursor if re.fullmatch(ID, cursor) else None)
        await self.show("staff_handed_in.html", rows=[handed_in_row(case) for case in cases], next_cursor=following)


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
            stale=stale_keys(case),
            is_supplement=case.state is State.SUPPLEMENT_REQUIRED,
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
        await self.show(
            "staff_intake_receipt.html",
            case=view,
            window=self.hall.catalogue.agency(self.staff.agency_id)["name"],
            is_own=case.agency_id == self.staff.agency_id,
            divisions=self.divisions,
            rating=await self._rating(case_id),
        )

    async def _rating(self, case_id: str) -> str:
        """Return the QR code of the one-time rating of this intake, as SVG."""
        code = await self.hall.feedback.code_of_intake(case_id)
        return qr(f"{self.hall.settings.public_url}/rate/{code}", "评价这次服务的二维码") if code else ""


routes = [
    (r"/staff/intake", Start),
    (r"/staff/intake/supplements", Supplement),
    (r"/staff/intake/handed-in", HandedIn),
    (rf"/staff/intake/{ID}", Fill),
    (rf"/staff/intake/{ID}/materials/(\w+)", Upload),
    (rf"/staff/intake/{ID}/receipt", Receipt),
]
