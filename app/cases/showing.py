"""Files of cases before a clerk's eyes: pages with a watermark to look at, the original only when asked for. Every look is recorded first."""

from datetime import datetime

from app.cases import isolation
from app.cases.errors import FileBroken, MaterialNotFound
from app.cases.model import Case
from app.cases.review import of_agency
from app.cases.service import Cases
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.clock import SHANGHAI, utc_now
from app.storage.mongo import Database


class Showing:
    def __init__(self, database: Database, cases: Cases) -> None:
        self._audit = database["audit"]
        self._cases = cases

    async def page(self, case_id: str, staff: StaffSession, file_id: str, page: int) -> tuple[bytes, int]:
        """Return a page of a file, counted from 1, as a JPEG with a watermark, and how many pages there are.

        Raises:
            CaseNotFound: no such case, or another agency's; MaterialNotFound: no such file or page; FileUnchecked; FileBroken.
        """
        case = await self._recorded(case_id, staff, "material.previewed", f"{file_id} p{page}")
        _name, kind, content = await self._cases.holdings.read_as_staff(case, file_id)
        agency = self._cases.catalogue.agency(staff.agency_id)["name"]
        options = {"content_type": kind, "page": page, "mark": watermark(case, staff, agency, utc_now())}
        try:
            said, picture = await isolation.run("preview", content, options)
        except isolation.Failed:
            said, picture = {"problem": "broken"}, b""
        if said.get("problem") == "page":
            raise MaterialNotFound("这个文件没有这一页。", en="No such page.", pages=said["pages"])
        if "problem" in said:
            raise FileBroken("这个文件显示不出来，可以下载原件查看。", en="The file cannot be shown: see the original.")
        return picture, int(said["pages"])

    async def original(self, case_id: str, staff: StaffSession, file_id: str) -> tuple[str, str, bytes]:
        """Return (name, type, bytes) of a file as it was handed in. Raises like `page`."""
        case = await self._recorded(case_id, staff, "material.original_read", file_id)
        return await self._cases.holdings.read_as_staff(case, file_id)

    async def _recorded(self, case_id: str, staff: StaffSession, action: str, what: str) -> Case:
        case = await self._cases.store.load(of_agency(case_id, staff))
        await record(self._audit, actor=staff.account, action=action, subject=case.id, owner_id=case.owner_id, purpose=what)
        return case


def watermark(case: Case, staff: StaffSession, agency: str, now: datetime) -> str:
    """Return who looks, when, and what for."""
    return f"{agency} {staff.account} {now.astimezone(SHANGHAI):%Y-%m-%d %H:%M} 仅供办理{case.item_name[:20]}使用"
