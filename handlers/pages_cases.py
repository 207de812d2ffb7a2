"""办: materials, check, submit; a resident's cases, one case with its progress, progress by query code. The form: pages_drafts.py."""

from collections.abc import Mapping
from typing import Any

from app.cases import errors, views
from app.cases.model import Case, State
from app.cases.uploads import MAX_FILE_BYTES, SPOKEN_LIMITS
from app.catalogue.model import applies
from app.kernel.errors import HallError, NotFound, RateLimited, TooLarge, ValidationFailed
from handlers import pages_text
from handlers.cases import progress_of, send_file, with_offers
from handlers.pages_base import PageHandler

ID = r"(case_[0-9A-Z]{26})"


class CasePage(PageHandler):
    """What the pages of one case share: the resident's own case, as the API would show it."""

    needs = "resident"
    tab = "cases"

    @property
    def owner(self) -> str:
        return self.resident.resident_id

    async def load(self, case_id: str) -> dict[str, Any]:
        """Return the view of the resident's own case. Raises CaseNotFound."""
        view: dict[str, Any] = await self.hall.cases.view(await self.hall.cases.get(case_id, self.owner))
        return view

    async def load_editable(self, case_id: str) -> dict[str, Any]:
        """Return a case that may be filled in; anything else leads to its page."""
        view = await self.load(case_id)
        if "save" not in view["allowed_actions"]:
            self.leave_for(f"/cases/{case_id}")
        return view


class Materials(CasePage):
    """Step 2: files, one plain upload form per material."""

    async def get(self, case_id: str) -> None:
        await self._show(await self.load_editable(case_id))

    async def post(self, case_id: str) -> None:
        view = await self.load(case_id)
        if not {"save", "hand_in", "replace_material"} & set(view["allowed_actions"]):
            self.leave_for(f"/cases/{case_id}")
        key = self.text("key", limit=60)
        uploads = self.request.files.get("file", [])
        try:
            for upload in uploads:
                if len(upload.body) > MAX_FILE_BYTES:
                    raise TooLarge("文件超过10MB，请压缩后再传。")
                await self.hall.cases.put_material(case_id, self.owner, key, upload.filename, upload.body)
            if self.text("licence_id", limit=60):
                await self.hall.cases.put_licence(case_id, self.owner, key, self.text("licence_id", limit=60))
            elif self.text("reuse", limit=130):
                from_case, _, from_key = self.text("reuse", limit=130).partition(" ")
                await self.hall.reuse.take_over(case_id, self.owner, key, from_case, from_key)
            elif not uploads:
                raise errors.FileBroken("还没有选文件，请先选择照片或文件。")
        except HallError as error:
            if error.status not in (404, 409, 413, 415, 422):
                raise
            return await self._show(await self.load(case_id), key, error)
        await self._back(view, key)

    async def _back(self, view: Mapping[str, Any], key: str) -> None:
        where = f"/cases/{view['id']}" if self.text("from") == "case" else f"/cases/{view['id']}/materials"
        self.redirect(f"{where}#material-{key}", status=303)

    async def _show(self, view: Mapping[str, Any], key: str = "", error: HallError | None = None) -> None:
        case = await self.hall.cases.get(view["id"], self.owner)
        await self.show(
            "case_materials.html",
            error.status if error else 200,
            case=with_offers(dict(view), await self.hall.reuse.offers(case)),
            limits=SPOKEN_LIMITS,
            photos=open_photos(view),
            stale=stale_keys(case),
            licences=await licences_by_type(self),
            errors={key: error.detail} if error else {},
            back=f"/cases/{view['id']}/edit",
        )


async def licences_by_type(page: CasePage) -> dict[str, list[Mapping[str, Any]]]:
    """Return the resident's licences by type, to offer them in place of a file."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for licence in await page.hall.licences.wallet(page.owner):
        if licence["state"] != "valid":  # run out or annulled: it stands for nothing
            continue
        found.setdefault(licence.get("type", ""), []).append(licence)
    return found


class RemoveFile(CasePage):
    async def post(self, case_id: str, key: str, file_id: str) -> None:
        await self.hall.cases.remove_material(case_id, self.owner, key, file_id)
        self.redirect(f"/cases/{case_id}/materials#material-{key}", status=303)


class File(CasePage):
    async def get(self, case_id: str, file_id: str) -> None:
        send_file(self, *await self.hall.cases.read_material(case_id, self.owner, file_id))


class Check(CasePage):
    """Step 3: read everything once more, prove who one is if the item asks for it, submit."""

    async def get(self, case_id: str) -> None:
        await self._show(await self.load_editable(case_id))

    async def post(self, case_id: str) -> None:
        view = await self.load_editable(case_id)
        known = self.text("known", limit=1000).split(",")
        if any(row not in known for row in handed_in(view)):
            # Another one was handed in while this page stood open: it is shown before the last tap, which is still possible.
            problem = errors.CaseConflict("同一件事，刚刚已经交过一件。看看下面那一件；确实不是同一件，再点一次提交。")
            return await self._show(view, problem)
        try:
            if view["state"] == "supplement_required":
                await self.hall.cases.supplement(case_id, self.owner)
            else:
                await self.hall.cases.submit(case_id, self.owner, by_person=self.text("by_person") == "1")
        except (errors.Incomplete, errors.ItemWithdrawn) as error:
            return await self._show(view, error)
        except errors.ActionNotAllowed:
            pass  # the other tap was faster: its case is the answer
        self.redirect(f"/cases/{case_id}", status=303)

    async def _show(self, view: Mapping[str, Any], error: HallError | None = None) -> None:
        values = view["form"]["values"]
        case = await self.hall.cases.get(view["id"], self.owner)
        await self.show(
            "case_check.html",
            error.status if error else 200,
            case=view,
            fields=[field for field in view["form"]["fields"] if is_asked(field, values)],
            divisions=self.divisions,
            division_groups=self.division_groups,
            photos=open_photos(view),
            stale=stale_keys(case),
            level=int(view["identity_level"][1:]),
            reached=self.resident.level,
            error=error,
            gaps=[(row, gap_link(view["id"], row["pointer"], open_photos(view))) for row in getattr(error, "errors", [])],
            known=",".join(handed_in(view)),
            has_rules=has_rules(self.hall.catalogue, view),
            back=f"/cases/{view['id']}/materials",
        )


def handed_in(view: Mapping[str, Any]) -> list[str]:
    """Return the ids of the owner's other cases of the item that are with the office already."""
    return [row["id"] for row in view["possible_duplicates"] if row["submitted_at"]]


def has_rules(catalogue: Any, view: Mapping[str, Any]) -> bool:
    """Say whether rules may decide a draft of this item, so that its applicant can ask for a person instead."""
    if view["state"] != State.DRAFT.value:
        return False
    try:
        item = catalogue.item(view["item"]["alias"])
    except NotFound:  # withdrawn: submitting says so
        return False
    return bool(item["auto_decide"] and item.get("auto_rules"))


def open_photos(view: Mapping[str, Any]) -> set[str]:
    """Return the keys of required photos for which there is neither a receipt number nor a file yet."""
    held = {row["key"] for row in view["materials"] if row["files"]}
    values = view["form"]["values"]
    return {
        field["key"]
        for field in view["form"]["fields"]
        if field["type"] == "photo" and field["required"] and is_asked(field, values)
        and field["key"] not in held and not str(values.get(field["key"]) or "").strip()
    }  # fmt: skip


def is_asked(field: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Say whether a field is asked under the other answers, by the domain's own rule."""
    return bool(applies(field.get("show_when"), values))


def gap_link(case_id: str, pointer: str, photos: set[str]) -> str:
    """Return where a gap is mended: `/form/mobile` is a field of step 1, `/materials/hukou` and a photo an upload of step 2."""
    part, _, key = pointer.strip("/").partition("/")
    if part == "materials" or key in photos:
        return f"/cases/{case_id}/materials#material-{key}"
    return f"/cases/{case_id}/edit#field-{key}"


class OneCase(CasePage):
    async def get(self, case_id: str) -> None:
        case = await self.hall.cases.get(case_id, self.owner)
        if case.state is State.DRAFT:
            return self.redirect(f"/cases/{case_id}/edit", status=303)
        await self.show_case(case)

    async def show_case(self, case: Case, status: int = 200, error: HallError | None = None) -> None:
        view: Mapping[str, Any] = with_offers(await self.hall.cases.view(case), await self.hall.reuse.offers(case))
        missing = {row["key"] for row in (view["supplement"] or {}).get("missing", ())}
        promised = [row for row in view["materials"] if row["status"] == "promised"] if "hand_in" in view["allowed_actions"] else []
        lost = [row for row in view["materials"] if row["is_lost"]] if "replace_material" in view["allowed_actions"] else []
        material_keys = {row["key"] for row in view["materials"]}
        await self.show(
            "case.html",
            status,
            case=view,
            timeline=list(reversed(view["timeline"])),
            to_upload=[row for row in view["materials"] if row["key"] in missing],
            to_answer=sorted(missing - material_keys),
            limits=SPOKEN_LIMITS,
            photos=set(),
            stale=stale_keys(case),
            licences=await licences_by_type(self) if view["state"] == "supplement_required" or promised or lost else {},
            to_hand_in=promised,
            to_replace=lost,
            error=error,
            back="/cases",
        )


def stale_keys(case: Case) -> set[str]:
    """Return the materials the notice asked for that have not come anew since."""
    if case.state is not State.SUPPLEMENT_REQUIRED or case.supplement is None:
        return set()
    asked_at = case.supplement["requested_at"]

    def is_fresh(held: Mapping[str, Any]) -> bool:
        moments = [entry["at"] for entry in held.get("files", ())]
        if held.get("licence_id") and "at" in held:
            moments.append(held["at"])
        return any(moment > asked_at for moment in moments)

    return {row["key"] for row in case.supplement["missing"] if not is_fresh(case.materials.get(row["key"], {}))}


class Withdraw(OneCase):
    """GET asks once more, POST takes the application back."""

    async def get(self, case_id: str) -> None:
        view = await self.load(case_id)
        if "withdraw" not in view["allowed_actions"]:
            return self.redirect(f"/cases/{case_id}", status=303)
        await self.show("case_withdraw.html", case=view, back=f"/cases/{case_id}")

    async def post(self, case_id: str) -> None:
        case = await self.hall.cases.withdraw(case_id, self.owner, self.text("reason", limit=500))
        self.redirect(f"/cases/{case.id}" if case.submitted_at else "/cases", status=303)


class Evaluate(OneCase):
    async def get(self, case_id: str) -> None:
        self.redirect(f"/cases/{case_id}", status=303)

    async def post(self, case_id: str) -> None:
        level = self.text("level", limit=1)
        if level not in {str(number) for number, _name in pages_text.EVALUATION}:
            problem = ValidationFailed([], "请先选一个满意度。")
            return await self.show_case(await self.hall.cases.get(case_id, self.owner), 422, problem)
        await self.hall.feedback.evaluate(
            case_id, self.owner, level=int(level), tags=[], text=self.text("text", limit=1000).strip()
        )
        self.redirect(f"/cases/{case_id}#evaluation", status=303)


class MyCases(CasePage):
    async def get(self) -> None:
        cursor = self.text("cursor", limit=40) or None
        cases, next_cursor = await self.hall.cases.list(self.owner, limit=20, cursor=cursor)
        await self.show("cases.html", cases=[views.summary(case) for case in cases], next_cursor=next_cursor)


class Progress(PageHandler):
    """Progress by case number and query code, for whoever holds both: no sign-in."""

    tab = "cases"

    async def get(self) -> None:
        await self.show("progress.html", found=None, number="", code="")

    async def post(self) -> None:
        number, code = self.text("number", limit=60).strip(), self.text("code", limit=20).strip()
        try:
            found = await progress_of(self, number, code)
        except NotFound:
            problem = NotFound("编号或查询码不对。请对照“消息”或办件页逐位核对。")
            return await self.show("progress.html", 404, found=None, number=number, code=code, error=problem)
        except RateLimited as error:
            self.set_header("Retry-After", str(error.retry_after_s))
            return await self.show("progress.html", 429, found=None, number=number, code="", error=error)
        found = {**found, "timeline": list(reversed(found["timeline"]))}
        await self.show("progress.html", found=found, number=number, code=code)


routes = [
    (r"/cases", MyCases),
    (rf"/cases/{ID}", OneCase),
    (rf"/cases/{ID}/materials", Materials),
    (rf"/cases/{ID}/materials/(\w+)/(\w+)/remove", RemoveFile),
    (rf"/cases/{ID}/files/(\w+)", File),
    (rf"/cases/{ID}/check", Check),
    (rf"/cases/{ID}/withdraw", Withdraw),
    (rf"/cases/{ID}/evaluation", Evaluate),
    (r"/progress", Progress),
]
