"""What the rooms of app/cases need of other rooms."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from pymongo.asynchronous.client_session import AsyncClientSession

from app.identity.model import Resident


class Catalogue(Protocol):
    """What is needed of app/catalogue: items by version, and places."""

    def item(self, code: str) -> Mapping[str, Any]: ...
    async def item_at(self, code: str, version: int) -> Mapping[str, Any]: ...
    def agency(self, agency_id: str) -> Mapping[str, Any]: ...
    def handling_agency(self, item: Mapping[str, Any], division_code: str) -> Mapping[str, Any]: ...
    @property
    def division_codes(self) -> frozenset[str]: ...


class People(Protocol):
    """What is needed of app/identity."""

    async def resident(self, resident_id: str) -> Resident: ...
    async def residents(self, resident_ids: Collection[str], session: AsyncClientSession) -> Mapping[str, Resident]: ...


class Licences(Protocol):
    """What is needed of app/licences: whether a licence can stand in for a material."""

    async def usable(self, licence_id: str, resident_id: str, licence_type: str) -> Mapping[str, Any]: ...
    async def valid(
        self, licence_ids: Collection[str], session: AsyncClientSession | None = None
    ) -> Mapping[tuple[str, str], str]: ...
    async def prefill_sources(self, resident_id: str) -> Mapping[str, str]: ...
