"""Files of cases as clerks see them: pages as pictures with a watermark (API and console); the original is a step of its own."""

from marshmallow import Schema, fields, validate

from app.kernel.errors import NotFound
from handlers.base import HallHandler, operation
from handlers.cases import send_file
from handlers.pages_base import ULID
from handlers.pages_staff import StaffPage


class PreviewQuery(Schema):
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1000))


class Preview(HallHandler):
    """A page as image/jpeg; `X-Page-Count` says how many there are."""

    @operation("A page of a file, with a watermark", query=PreviewQuery, auth="staff")
    async def get(self, case_id: str, _key: str, file_id: str) -> None:
        _send_page(self, *await self.hall.showing.page(case_id, self.staff, file_id, self.query["page"]))


class PagePreview(StaffPage):
    async def get(self, case_id: str, file_id: str, page: str) -> None:
        _send_page(self, *await self.hall.showing.page(case_id, self.staff, file_id, int(page)))


class FilePage(StaffPage):
    """The pages of one file under each other; the original by a button."""

    async def get(self, case_id: str, file_id: str) -> None:
        case = await self.hall.review.get(case_id, self.staff)
        view = await self.hall.review.view(case, self.staff)
        row, file = next(
            ((row, file) for row in view["materials"] for file in row["files"] if file["id"] == file_id), (None, None)
        )
        if row is None or file is None:
            raise NotFound("没有找到这个文件。")
        await self.show("staff_file.html", case=view, row=row, file=file)


class Original(StaffPage):
    async def post(self, case_id: str, file_id: str) -> None:
        send_file(self, *await self.hall.showing.original(case_id, self.staff, file_id), is_download=True)


def _send_page(handler: HallHandler, picture: bytes, pages: int) -> None:
    handler.set_header("Content-Type", "image/jpeg")
    handler.set_header("Content-Disposition", "inline")
    handler.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
    handler.set_header("Cache-Control", "private, no-store")
    handler.set_header("X-Page-Count", str(pages))
    handler.finish(picture)


_PAGE = rf"/staff/cases/(case_{ULID})/files/(\w+)"

routes = [
    (r"/staff/v1/cases/([\w-]+)/materials/(\w+)/files/(\w+)/preview", Preview),
    (_PAGE, FilePage),
    (_PAGE + r"/pages/(\d{1,4})", PagePreview),
    (_PAGE + r"/original", Original),
]
