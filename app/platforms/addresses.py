"""Which addresses the hall may call when somebody else names them: never one inside (SSRF), but for networks that the operator opens.

Looked at twice: when an address is given, for a clear answer; and by the client at each connection, on the very addresses it connects to, since
a name may lead elsewhere by then.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Of the protocols' own (RFC 6890), of which older versions of the library know a part only.
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
_EMBEDDING = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def is_allowed(address: str, opened: Sequence[Network]) -> bool:
    """Say whether an IP address is one of the public internet or of an opened network."""
    if is_public(address):
        return True
    try:
        ip = ipaddress.ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    return any(ip in network for network in opened)


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet. What is no address is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in network for network in _EMBEDDING):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:  # an IPv4 address in another dress leads to the same place
            return is_public(str(inner))
    if ip in _PROTOCOLS:
        return False
    if ip.version == 6 and ip.is_site_local:  # fec0::/10, which counts as global since it was withdrawn
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local)


def is_literal(host: str) -> bool:
    """Say whether a host is an IP address itself, in any of the forms that the system's resolver takes (`127.1`, `0x7f000001`)."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return True
    except ValueError:
        pass
    try:
        socket.inet_aton(host)  # takes what inet_aton(3) takes, so nothing slips through as a name
        return True
    except OSError:
        return False


async def resolved(host: str) -> list[str]:
    """Return the addresses of a host, empty when it has none."""
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(row[4][0]) for row in rows})


class PublicResolver(AbstractResolver):
    """Resolves for a client that must stay outside: a name that has one address inside has none."""

    def __init__(self, opened: Sequence[Network] = (), inner: AbstractResolver | None = None) -> None:
        self._opened = opened
        self._inner = inner or ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(is_allowed(row["host"], self._opened) for row in found):
            raise OSError("the name leads to an address inside")
        return found

    async def close(self) -> None:
        await self._inner.close()
