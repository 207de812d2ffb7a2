"""The stand-ins' bills: refused when the originals refuse, and strict about who downloads."""

import gzip
import hashlib
import io
import zipfile
from datetime import datetime, timedelta

import pytest

from sandbox.base import CHINA
from tests.sandbox.callers import Merchant


def day(offset=0):
    return (datetime.now(CHINA).date() + timedelta(days=offset)).isoformat()


async def trade_bill(merchant: Merchant, bill_date: str, **query: str):
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return await merchant.wechatpay("GET", f"/v3/bill/tradebill?bill_date={bill_date}{more}")


async def test_today_has_no_bill_and_old_days_none_any_more(merchant):
    for bill_date in (day(), day(1), day(-200), "2026-13-01", ""):
        answer = await trade_bill(merchant, bill_date)
        assert answer.status == 400 and answer.json["code"] in ("INVALID_REQUEST", "PARAM_ERROR")


async def test_an_empty_day(merchant):
    assert (await trade_bill(merchant, day(-1))).json["code"] == "NO_STATEMENT_EXIST"


async def test_the_bill_is_being_made_then_there(merchant, sim):
    await sim("bills", provider="wechatpay", day=day(-1), creating=1, foreign=3)
    assert (await trade_bill(merchant, day(-1))).json["code"] == "STATEMENT_CREATING"
    answer = (await trade_bill(merchant, day(-1), bill_type="ALL", tar_type="GZIP")).json
    path = answer["download_url"].removeprefix(merchant.url)
    file = await merchant.wechatpay("GET", path)
    raw = gzip.decompress(file.raw)
    assert hashlib.sha1(raw).hexdigest() == answer["hash_value"]
    assert raw.startswith(b"\xef\xbb\xbf") and raw.count(b"\r\n") == 6
    assert "Wechatpay-Signature" not in file.headers


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_wrong_token_is_refused(merchant, token):
    assert (await merchant.wechatpay("GET", f"/v3/billdownload/file?token={token}")).status == 403


async def test_alipays_zip_has_gbk_names(merchant, sim):
    method = "alipay.data.dataservice.bill.downloadurl.query"
    content = {"bill_type": "trade", "bill_date": day(-1)}
    name = method.replace(".", "_") + "_response"
    assert merchant.business(await merchant.alipay(method, content), name)["sub_code"] == "isp.bill_not_exist"
    await sim("bills", provider="alipay", day=day(-1), foreign=2)
    url = merchant.business(await merchant.alipay(method, content), name)["bill_download_url"]
    async with merchant.http.get(url) as answer:
        raw = await answer.read()
    members = [info.filename.encode("cp437").decode("gbk") for info in zipfile.ZipFile(io.BytesIO(raw)).infolist()]
    assert [member[member.index("_业") :] for member in members] == ["_业务明细.csv", "_业务明细(汇总).csv"]
    async with merchant.http.get(url.replace("fileId=", "fileId=x")) as answer:
        assert answer.status == 403
