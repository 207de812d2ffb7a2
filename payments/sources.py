"""What can be paid for. The hall's assembly connects a source per kind (`case`, `bill`); payments know nothing else of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class QuoteLine(Protocol):
    @property
    def title(self) -> str: ...
    @property
    def amount_fen(self) -> int: ...
    @property
    def payee(self) -> str: ...
    @property
    def paid_for(self) -> str:
        """The masked name of somebody else it is paid for, or an empty text."""
        ...


class Quote(Protocol):
    """What is owed now: lines, the agency that gets it, and the version of the subject the price belongs to."""

    @property
    def title(self) -> str: ...
    @property
    def agency_id(self) -> str: ...
    @property
    def lines(self) -> Sequence[QuoteLine]: ...
    @property
    def subject_version(self) -> int: ...
    @property
    def pay_by(self) -> datetime | None:
        """The moment after which it cannot be paid any more: an order for it lives no longer."""
        ...

    @property
    def after(self) -> Sequence[str]:
        """Ids of the same kind that have to be paid before it, or in the same order."""
        ...


class PayableSource(Protocol):
    async def quote(self, payable_id: str, resident_id: str) -> Quote:
        """Return what this resident owes for it now.

        Raises:
            NotFound: no such thing, or somebody else's.
            Conflict: nothing is due.
            ProviderUnavailable: the department that knows does not answer.
        """
        ...
