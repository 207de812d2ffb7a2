"""Events: what happened, appended in the transaction in which it happened (transactional outbox)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.kernel import context
from app.kernel.clock import utc_now
from app.kernel.ids import new_id


@dataclass(frozen=True)
class Event:
    """One fact about one subject.

    Attributes:
        id: `evt_...`, time sortable.
        name: `<subject>.<past tense>`, for example `case.accepted`.
        at: aware UTC.
        subject_kind, subject_id: what it is about, for example `case`, `case_01...`.
        owner_id: the resident whom it concerns.
        data: plain BSON values; never personal data in clear.
        request_id: of the request that caused it; carried on into every log line it leads to.
    """

    id: str
    name: str
    at: datetime
    subject_kind: str
    subject_id: str
    owner_id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""

    def to_document(self) -> dict[str, Any]:
        return {
            "_id": self.id,
            "name": self.name,
            "at": self.at,
            "subject_kind": self.subject_kind,
            "subject_id": self.subject_id,
            "owner_id": self.owner_id,
            "data": dict(self.data),
            "request_id": self.request_id,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Event":
        return cls(
            id=document["_id"],
            name=document["name"],
            at=document["at"],
            subject_kind=document["subject_kind"],
            subject_id=document["subject_id"],
            owner_id=document["owner_id"],
            data=document["data"],
            request_id=document["request_id"],
        )


def new_event(
    name: str,
    *,
    subject: tuple[str, str],
    owner_id: str,
    data: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> Event:
    """Return an event of now that carries the present request id."""
    return Event(
        id=new_id("evt"),
        name=name,
        at=at or utc_now(),
        subject_kind=subject[0],
        subject_id=subject[1],
        owner_id=owner_id,
        data=data or {},
        request_id=context.request_id.get(),
    )
