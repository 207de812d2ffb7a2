"""Where a web hook may lead: never to an address inside, now or later, but for networks that the operator opens."""

from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from app.exchange.hooks import Hooks, shape_problem
from app.kernel.clock import utc_now
from app.kernel.errors import ValidationFailed
from app.platforms import addresses
from app.platforms.http import HttpClient, VendorUnreachable
from config.settings import networks
from tests.app.exchange.office import EVENTS, HEAD, Office


@pytest.mark.parametrize(
    "url",
    [
        "http://system.example.gov.cn/x", "https://user:pw@example.gov.cn/", "https://example.gov.cn/#x", "https://example.gov.cn:6379/",
        "https://localhost/", "https://redis/", "https:///x", "https://exam ple.cn/", "https://example.gov.cn\\@10.0.0.1/", "//example.gov.cn/",
        "https://example.gov.cn:99999/", "https://[::1/", "https://例子.中国/", "https://example.gov.cn/" + "x" * 500, "file:///etc/passwd",
    ],
)  # fmt: skip
def test_an_address_of_a_wrong_form_is_refused(url: str):
    assert shape_problem(url, is_production=True)


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.8", "10.0.0.1", "127.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "198.18.0.1", "not an address", "",
    ],
)  # fmt: skip
def test_an_address_inside_is_not_public(address: str):
    assert not addresses.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "120.232.1.1", "2400:3200::1", "::ffff:1.1.1.1"])
def test_a_public_address_is_public(address: str):
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/", "https://[::1]/x", "https://127.0.0.1:8443/", "https://169.254.169.254/latest/meta-data", "https://127.1/", "https://0x7f000001.1/"]
)
async def test_production_takes_no_address_inside(office: Office, keys, url: str):
    strict = Hooks(office.database, keys, utc_now, is_production=True, events=EVENTS)
    with pytest.raises(ValidationFailed):
        await strict.put(HEAD, url=url, algorithm="hmac-sm3", events=[])
    assert await office.database["hooks"].count_documents({}) == 0


async def test_the_operator_opens_networks_of_the_intranet_and_no_others(office: Office, keys):
    opened = networks("10.20.0.0/16, fd00:1::/32")
    strict = Hooks(office.database, keys, utc_now, is_production=True, events=EVENTS, opened=opened)
    for url in ("https://10.21.0.1/", "https://127.0.0.1/", "https://[fd00:2::1]/"):
        with pytest.raises(ValidationFailed):
            await strict.put(HEAD, url=url, algorithm="hmac-sm3", events=[])
    assert (await strict.put(HEAD, url="https://10.20.3.4/events", algorithm="hmac-sm3", events=[]))[0]["url"] == "https://10.20.3.4/events"


@pytest.mark.parametrize("text", ["0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "10.20.0.1/16", "intranet", "::1/128"])
def test_a_network_that_leads_to_the_hall_itself_is_none_of_the_intranet(text: str):
    with pytest.raises(ValueError):
        networks(text)


class Leading(AbstractResolver):
    """A name server that has changed its mind since the address was given."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None: ...


async def test_a_name_that_leads_inside_later_is_not_connected_to(office: Office, monkeypatch: pytest.MonkeyPatch):
    port = office.running.url.rpartition(":")[2]
    outside = HttpClient(stays_outside=True)
    monkeypatch.setattr(addresses, "ThreadedResolver", Leading)
    for host in ("rebound.example.gov.cn", "127.0.0.1", "127.1"):
        with pytest.raises(VendorUnreachable):
            await outside.request("hook.x", "GET", f"http://{host}:{port}/healthz", headers={}, body=None, timeout_s=2)
    async with office.http.get(f"{office.running.url}/healthz") as answer:
        assert answer.status == 200, "it was there to be reached"
    await outside.close()
