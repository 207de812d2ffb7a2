"""Fetching daily bills: what each provider wants to be asked, and what its refusals mean. Reading them is <provider>_bills.py.

BillNotReady   not there yet: asked for again later
BillMissing    the provider says there is none; whether that means an empty day, the caller's own books tell
ProviderError  of the call or the download, see payments/provider.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import structlog

from app.platforms.alipay import AlipayGateway, AlipayRefused
from app.platforms.http import HttpClient, Response, VendorUnknown, VendorUnreachable
from payments.bill import BillRow, Reading
from payments.provider import ProviderError, ProviderNotSent, ProviderRefused, ProviderUnknown
from payments.providers import alipay_accounts, alipay_bills, wechatpay_bills
from payments.providers.wechatpay import WeChatPay

log = structlog.get_logger(__name__)

# Packed; a bill of ten million rows is about 600 MB.
MAX_DOWNLOAD_BYTES = 2 * 1024**3
DOWNLOAD_TIMEOUT_S = 1800
_GZIP = b"\x1f\x8b"


class BillNotReady(Exception):
    """The provider is still making this day's bill."""


class BillMissing(Exception):
    """The provider says that there is no bill of this day.

    Attributes:
        is_final: documented as "no trade that day"; else it may mean "not yet".
    """

    def __init__(self, *, is_final: bool) -> None:
        super().__init__()
        self.is_final = is_final


@dataclass(frozen=True)
class FetchedBill:
    """A bill on disk as it was downloaded. `sha1` is the announced hash of the unpacked file, "" where there is none."""

    path: Path
    sha1: str = ""


class BillSource(Protocol):
    """One provider's daily bills.

    Attributes:
        has_refund_numbers: refunds stand in them under our own numbers; else they are found by payment, amount and time.
    """

    provider: str
    has_refund_numbers: bool

    async def fetch(self, day: date, to: Path) -> FetchedBill:
        """Download the bill of a Shanghai day into the file `to`. Raises BillNotReady, BillMissing, ProviderError."""
        ...

    def read(self, bill: FetchedBill, reading: Reading) -> Iterator[BillRow]:
        """Yield the rows of a fetched bill; blocking, for a thread. Raises BillRefused."""
        ...


class WeChatPayBills:
    """Trade bills (ALL, GZIP) of one merchant number."""

    provider = wechatpay_bills.PROVIDER
    has_refund_numbers = True

    def __init__(self, http: HttpClient, wechatpay: WeChatPay) -> None:
        self._http = http
        self._wechatpay = wechatpay

    async def fetch(self, day: date, to: Path) -> FetchedBill:
        query = urlencode({"bill_date": day.isoformat(), "bill_type": "ALL", "tar_type": "GZIP"})
        try:
            answer = await self._wechatpay.fetch(f"/v3/bill/tradebill?{query}")
        except ProviderRefused as refused:
            code = refused.code.replace("_", "").upper()
            if code == "NOSTATEMENTEXIST":
                raise BillMissing(is_final=True) from refused
            if code == "STATEMENTCREATING":
                raise BillNotReady from refused
            raise
        url, sha1 = answer.get("download_url"), answer.get("hash_value")
        if not isinstance(url, str) or not isinstance(sha1, str) or answer.get("hash_type") != "SHA1":
            raise ProviderUnknown("tradebill without download_url or SHA1")
        # The address is signed like any other; the answer is not, which is what the hash of the signed first answer is for.
        await _download(self._http, self.provider, url, to, self._wechatpay.signed_headers("GET", url))
        return FetchedBill(to, sha1)

    def read(self, bill: FetchedBill, reading: Reading) -> Iterator[BillRow]:
        with bill.path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP
        return wechatpay_bills.read_file(bill.path, is_gzip=is_gzip, sha1=bill.sha1, reading=reading)


class AlipayBills:
    """Bills of one application.

    Args:
        bill_type: `trade`, or `signcustomer` for a merchant whose product has the account's bill only.
    """

    provider = alipay_bills.PROVIDER

    def __init__(self, http: HttpClient, gateway: AlipayGateway, bill_type: str = "trade") -> None:
        self._http = http
        self._gateway = gateway
        self._bill_type = bill_type
        self.has_refund_numbers = bill_type == "trade"

    async def fetch(self, day: date, to: Path) -> FetchedBill:
        try:
            answer = await self._gateway.call(
                "alipay.data.dataservice.bill.downloadurl.query", {"bill_type": self._bill_type, "bill_date": day.isoformat()}
            )
        except AlipayRefused as refused:
            # The spelling of this sub_code is not the same everywhere: BILL_NOT_EXIST, isp.bill_not_exist.
            if "BILLNOTEXIST" in refused.sub_code.upper().replace("_", "").replace("-", ""):
                raise BillMissing(is_final=False) from refused
            raise ProviderRefused(refused.sub_code or refused.result_code) from refused
        except (VendorUnreachable, VendorUnknown) as error:
            raise _plain(error) from error
        url = answer.text("bill_download_url")
        if not url:
            raise ProviderUnknown("no bill_download_url")
        # Valid for 30 seconds, not signed.
        await _download(self._http, self.provider, url, to, {})
        return FetchedBill(to)

    def read(self, bill: FetchedBill, reading: Reading) -> Iterator[BillRow]:
        read = alipay_bills.read_file if self._bill_type == "trade" else alipay_accounts.read_file
        return read(bill.path, reading=reading)


async def _download(http: HttpClient, provider: str, url: str, to: Path, headers: dict[str, str]) -> Response:
    try:
        response = await http.download(
            provider, url, headers=headers, to=to, max_bytes=MAX_DOWNLOAD_BYTES, timeout_s=DOWNLOAD_TIMEOUT_S
        )
    except (VendorUnreachable, VendorUnknown) as error:
        raise _plain(error) from error
    if response.status != 200:
        log.warning("bill.download_refused", provider=provider, status=response.status)
        raise ProviderUnknown(f"download: status {response.status}")
    return response


def _plain(error: Any) -> ProviderError:
    cause = str(error.context.get("cause", "unknown"))
    return ProviderNotSent(cause) if isinstance(error, VendorUnreachable) else ProviderUnknown(cause)
