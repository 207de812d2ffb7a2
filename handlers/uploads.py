"""Uploads in pieces, for the API (/v1/cases/{id}/materials/{key}/uploads) and for the script of the material page (the same under /cases)."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.kernel.errors import NotFound, TooLarge
from handlers.base import HallHandler, operation
from handlers.cases import MaterialResponse, material_row
from handlers.pages_base import ULID, PageHandler

MAX_PIECE_BYTES = 1024 * 1024


class UploadRequest(Schema):
    """What is about to be sent. With `sha256` (lower-case hex, of the whole file) a break can be resumed on another device, and the file is checked."""

    name = fields.String(required=True, validate=validate.Length(1, 200))
    size = fields.Integer(required=True, strict=True)
    sha256 = fields.String(load_default=None, allow_none=True, validate=validate.Length(equal=64))


class UploadResponse(Schema):
    id = fields.String()
    state = fields.String(validate=validate.OneOf(["open", "done", "refused"]))
    size = fields.Integer()
    piece_size = fields.Integer()
    pieces = fields.Integer()
    received = fields.List(fields.Integer())
    expires_at = fields.String()
    limits = fields.Dict()


class _Calls(HallHandler):
    """What API and page share: who asks is `self.resident` in both."""

    async def announce(self, case_id: str, key: str) -> None:
        body = self.load_json(UploadRequest)
        upload, is_new = await self.hall.pieces.announce(case_id, self.resident.resident_id, key, **body)
        await self.answer(upload, 201 if is_new else 200)

    async def show_upload(self, case_id: str, key: str, upload_id: str) -> None:
        await self.answer(await self.hall.pieces.get(case_id, self.resident.resident_id, key, upload_id))

    async def drop(self, case_id: str, key: str, upload_id: str) -> None:
        await self.hall.pieces.drop(case_id, self.resident.resident_id, key, upload_id)
        self.set_status(204)
        self.finish()

    async def put_piece(self, case_id: str, key: str, upload_id: str, number: str) -> None:
        if len(self.request.body) > MAX_PIECE_BYTES:
            raise TooLarge("一片最多1MB，请按 piece_size 分片。", en="A piece is at most 1 MiB: see piece_size.")
        if not number.isascii() or not number.isdigit() or len(number) > 6:
            raise NotFound("没有这一片。", en="No such piece.")
        resident_id = self.resident.resident_id
        upload = await self.hall.pieces.put(case_id, resident_id, key, upload_id, int(number), self.request.body)
        await self.answer(upload)

    async def complete(self, case_id: str, key: str, upload_id: str) -> None:
        case = await self.hall.pieces.complete(case_id, self.resident.resident_id, key, upload_id)
        await self.answer(material_row(await self.hall.cases.view(case), key) | {"version": case.version})


class Uploads(_Calls):
    @operation("Announce an upload in pieces", body=UploadRequest, answers={201: UploadResponse, 200: UploadResponse}, auth="resident")
    async def post(self, case_id: str, key: str) -> None:
        await self.announce(case_id, key)


class Upload(_Calls):
    @operation("Which pieces have arrived", answers={200: UploadResponse}, auth="resident")
    async def get(self, case_id: str, key: str, upload_id: str) -> None:
        await self.show_upload(case_id, key, upload_id)

    @operation("Give an unfinished upload up", answers={204: None}, auth="resident")
    async def delete(self, case_id: str, key: str, upload_id: str) -> None:
        await self.drop(case_id, key, upload_id)


class Piece(_Calls):
    @operation("Send a piece (raw bytes), counted from 0", answers={200: UploadResponse}, auth="resident")
    async def put(self, case_id: str, key: str, upload_id: str, number: str) -> None:
        await self.put_piece(case_id, key, upload_id, number)


class Complete(_Calls):
    @operation("Hand in what the pieces make", answers={200: MaterialResponse}, auth="resident")
    async def post(self, case_id: str, key: str, upload_id: str) -> None:
        await self.complete(case_id, key, upload_id)


class _PageCalls(_Calls, PageHandler):
    """The same for a page of ours: signed in by its cookie, with the form's token in a header; refusals are problem+json."""

    needs = "resident"

    def ask_to_sign_in(self) -> None:
        from app.kernel.errors import Unauthorized

        raise Unauthorized("请先登录。", en="Sign in first.")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        HallHandler.write_error(self, status_code, **kwargs)


class PageUploads(_PageCalls):
    async def post(self, case_id: str, key: str) -> None:
        await self.announce(case_id, key)


class PagePiece(_PageCalls):
    async def put(self, case_id: str, key: str, upload_id: str, number: str) -> None:
        await self.put_piece(case_id, key, upload_id, number)


class PageComplete(_PageCalls):
    async def post(self, case_id: str, key: str, upload_id: str) -> None:
        await self.complete(case_id, key, upload_id)


_API = r"/v1/cases/([\w-]+)/materials/(\w+)/uploads"
_PAGE = rf"/cases/(case_{ULID})/materials/(\w+)/uploads"

routes = [
    (_API, Uploads),
    (_API + r"/([\w-]+)", Upload),
    (_API + r"/([\w-]+)/pieces/([\w-]+)", Piece),
    (_API + r"/([\w-]+)/complete", Complete),
    (_PAGE, PageUploads),
    (_PAGE + r"/([\w-]+)/pieces/([\w-]+)", PagePiece),
    (_PAGE + r"/([\w-]+)/complete", PageComplete),
]
