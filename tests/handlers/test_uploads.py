"""Materials over HTTP: in pieces by API and page, what is refused early, who may see a file, and how it is sent."""

import hashlib
import io
import random

from PIL import Image

from app.cases.pieces import PIECE_BYTES
from app.kernel.ids import new_id
from sandbox.clamd import EICAR
from tests.handlers.pages_world import (  # noqa: F401 - the fixture
    PASSWORD,
    clerk,
    draft,
    sign_in,
    submitted,
    world,
)


def photo(seed=1):
    out = io.BytesIO()
    Image.frombytes("RGB", (700, 600), random.Random(seed).randbytes(700 * 600 * 3)).save(out, "JPEG", quality=85)
    return out.getvalue()


PHOTO = photo()
SUM = hashlib.sha256(PHOTO).hexdigest()


async def a_token(world, name):  # noqa: F811
    browser = world.browser()
    async with browser.http.post(f"{world.url}/mp/v1/wechat/login", json={"code": f"sim-{name}"}) as answer:
        return (await answer.json())["access_token"]


class Client:
    def __init__(self, world, token=""):  # noqa: F811
        self.world, self.http = world, world.browser().http
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(self, method, path, **more):
        headers = {**self.headers, **more.pop("headers", {})}
        async with self.http.request(method, self.world.url + path, headers=headers, **more) as answer:
            body = await answer.read()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, (await answer.json(content_type=None) if "json" in kind else body), answer.headers

    async def case(self):
        body = {"item_code": "id_card_lost", "division_code": "440203", "answers": {"age": "adult"}}
        status, case, _ = await self.call("POST", "/v1/cases", json=body, headers={"Idempotency-Key": new_id("key")})
        assert status == 201, case
        return case


async def test_in_pieces_by_the_api(world):  # noqa: F811
    client = Client(world, await a_token(world, new_id("p").lower().replace("_", "")))
    case = await client.case()
    row = next(row for row in case["materials"] if row["key"] == "hukou")
    assert row["limits"]["max_bytes"] == 10 * 2**20 and "application/pdf" in row["limits"]["accept"]
    base = f"/v1/cases/{case['id']}/materials/hukou/uploads"
    announced = {"name": "户口簿.jpg", "size": len(PHOTO), "sha256": SUM}
    status, upload, _ = await client.call("POST", base, json=announced)
    assert (status, upload["received"], upload["piece_size"]) == (201, [], PIECE_BYTES)
    here = f"{base}/{upload['id']}"
    assert (await client.call("PUT", f"{here}/pieces/1", data=PHOTO[PIECE_BYTES : 2 * PIECE_BYTES]))[1]["received"] == [1]
    assert (await client.call("POST", base, json=announced))[:2][0] == 200
    status, problem, _ = await client.call("POST", f"{here}/complete")
    assert (status, problem["code"]) == (409, "upload.incomplete") and problem["missing"] == [
        number for number in range(upload["pieces"]) if number != 1
    ]
    for number in range(upload["pieces"]):
        begin = number * PIECE_BYTES
        status, told, _ = await client.call("PUT", f"{here}/pieces/{number}", data=PHOTO[begin : begin + PIECE_BYTES])
        assert status == 200, told
    first, again = [await client.call("POST", f"{here}/complete") for _ in range(2)]
    assert first[:2] == again[:2] and first[0] == 200 and first[1]["status"] == "uploaded"
    assert (await client.call("GET", here))[1]["state"] == "done"

    file_id = first[1]["files"][0]["id"]
    status, _body, headers = await client.call("GET", f"/v1/cases/{case['id']}/materials/hukou/files/{file_id}")
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and headers["X-Content-Type-Options"] == "nosniff"
    assert "filename*=UTF-8''%E6%88%B7%E5%8F%A3%E7%B0%BF.jpg" in headers["Content-Disposition"]
    assert "sandbox" in headers["Content-Security-Policy"] and "no-store" in headers["Cache-Control"]

    stranger = Client(world, await a_token(world, new_id("p").lower().replace("_", "")))
    for method, path, more in (
        ("POST", base, {"json": announced}),
        ("GET", here, {}),
        ("PUT", f"{here}/pieces/0", {"data": b"x"}),
        ("POST", f"{here}/complete", {}),
        ("DELETE", here, {}),
        ("GET", f"/v1/cases/{case['id']}/materials/hukou/files/{file_id}", {}),
    ):
        assert (await stranger.call(method, path, **more))[0] == 404, path
        assert (await Client(world).call(method, path, **more))[0] == 401, path


async def test_refused_early_and_in_words_that_help(world):  # noqa: F811
    client = Client(world, await a_token(world, new_id("p").lower().replace("_", "")))
    case = await client.case()
    base = f"/v1/cases/{case['id']}/materials/hukou"
    status, problem, _ = await client.call("POST", f"{base}/uploads", json={"name": "a.jpg", "size": 11 * 2**20})
    assert (status, problem["code"]) == (413, "case.file_too_large") and "压缩" in problem["detail"]
    status, problem, _ = await client.call("POST", f"{base}/uploads", json={"name": "a.jpg", "size": "1"})
    assert status == 422
    upload = (await client.call("POST", f"{base}/uploads", json={"name": "a.jpg", "size": 10}))[1]
    assert (await client.call("PUT", f"{base}/uploads/{upload['id']}/pieces/0", data=b"x" * (2**20 + 1)))[0] == 413
    assert (await client.call("PUT", f"{base}/uploads/{upload['id']}/pieces/9999999", data=b"x"))[0] == 404
    assert (await client.call("DELETE", f"{base}/uploads/{upload['id']}"))[0] == 204
    assert (await client.call("GET", f"{base}/uploads/{upload['id']}"))[0] == 404
    assert (await client.call("PUT", base, json={}))[0] == (await client.call("PUT", base, json={"reuse": {}}))[0] == 422
    status, problem, _ = await client.call("PUT", base, json={"reuse": {"case_id": "case_x", "key": "hukou"}})
    assert (status, problem["code"]) == (404, "case.material_not_found")
    # The stand-in of clamd knows one signature.
    status, problem, _ = await client.call("PUT", base, data={"file": io.BytesIO(PHOTO + EICAR)})
    assert (status, problem["code"]) == (422, "case.file_infected") and "安全检查" in problem["detail"]


async def test_a_page_sends_in_pieces_with_its_cookie_and_its_token(world):  # noqa: F811
    browser = await sign_in(world)
    page = await draft(browser)
    materials = page.path.split("#")[0].replace("/edit", "/materials")
    page = await browser.get(materials)
    assert "每个不超过10MB" in page.text and "PDF 不超过50页" in page.text
    token = next(value for form in page.forms for name, value in form.values if name == "_xsrf")
    base = world.url + materials.replace("/materials", "/materials/hukou/uploads")
    announced = {"name": "a.jpg", "size": len(PHOTO), "sha256": SUM}
    async with browser.http.post(base, json=announced) as answer:
        assert answer.status == 403 and (await answer.json())["code"] == "page.expired"
    headers = {"X-XSRFToken": token}
    async with browser.http.post(base, json=announced, headers=headers) as answer:
        upload = await answer.json()
    for number in range(upload["pieces"]):
        piece = PHOTO[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
        async with browser.http.put(f"{base}/{upload['id']}/pieces/{number}", data=piece, headers=headers) as answer:
            assert answer.status == 200
    async with browser.http.post(f"{base}/{upload['id']}/complete", headers=headers) as answer:
        assert answer.status == 200
    assert "a.jpg" in (await browser.get(materials)).text
    other = await sign_in(world)
    token = next(value for form in (await other.get("/me")).forms for name, value in form.values if name == "_xsrf")
    async with other.http.post(base, json=announced, headers={"X-XSRFToken": token}) as answer:
        assert answer.status == 404


async def test_clerks_look_at_pages_and_ask_for_the_original(world):  # noqa: F811
    resident = await sign_in(world)
    case_page = await submitted(world, resident)
    case_id = case_page.path.split("/")[-1].partition("#")[0]
    async with world.browser().http.post(
        f"{world.url}/staff/v1/login", json={"account": "clerk.sg-gaj", "password": PASSWORD}
    ) as answer:
        own = Client(world, (await answer.json())["access_token"])
    _status, view, _ = await own.call("GET", f"/staff/v1/cases/{case_id}")
    row = next(row for row in view["materials"] if row["files"])
    file = row["files"][0]
    assert (file["trust"], file["age_days"]) == ("uploaded", 0)
    path = f"/staff/v1/cases/{case_id}/materials/{row['key']}/files/{file['id']}"
    status, picture, headers = await own.call("GET", f"{path}/preview?page=1")
    assert status == 200 and picture[:3] == b"\xff\xd8\xff" and headers["X-Page-Count"] == "1"
    assert (await own.call("GET", f"{path}/preview?page=2"))[0] == 404
    assert (await own.call("GET", f"{path}/preview?page=x"))[0] == 422
    status, _body, headers = await own.call("GET", path)
    assert status == 200 and headers["Content-Disposition"].startswith("attachment;")

    desk = await clerk(world)
    page = await desk.get(f"/staff/cases/{case_id}/files/{file['id']}")
    assert "下载原件" in page.text and f"/staff/cases/{case_id}/files/{file['id']}/pages/1" in page.html
    async with desk.http.get(f"{world.url}/staff/cases/{case_id}/files/{file['id']}/pages/1") as answer:
        assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    async with desk.http.get(f"{world.url}/staff/cases/{case_id}/files/{file['id']}/original") as answer:
        assert answer.status == 405, "a link alone gives no original"
    token = next(value for form in page.forms for name, value in form.values if name == "_xsrf")
    original = f"{world.url}/staff/cases/{case_id}/files/{file['id']}/original"
    async with desk.http.post(original, data={"_xsrf": token}) as answer:
        assert answer.status == 200 and answer.headers["Content-Disposition"].startswith("attachment;")

    other = await clerk(world, "sg-rsj")
    for path in (f"/staff/cases/{case_id}/files/{file['id']}", f"/staff/cases/{case_id}/files/{file['id']}/pages/1"):
        assert (await other.get(path)).status == 404
    audit = await world.hall.database["audit"].find({"subject": case_id, "action": {"$regex": "^material"}}).to_list()
    assert [row["action"] for row in audit].count("material.original_read") == 2
    assert [row["action"] for row in audit].count("material.previewed") == 3
