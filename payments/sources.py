"""What can be paid for. The hall's assembly connects a source per kind (`case`, `bill`); payments know nothing else of them."""

from collections.abc import Sequence
from typing import Protocol


class QuoteLine(Protocol):
    @property
    def title(self) -> str: ...
    @property
    def amount_fen(self) -> int: ...
    @property
    def payee(self) -> str: ...


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


class PayableSource(Protocol):
    async def quote(self, payable_id: str, resident_id: str) -> Quote:
        """Return what this resident owes for it now.

        Raises:
            NotFound: no such thing, or somebody else's.
            Conflict: nothing is due.
            ProviderUnavailable: the department that knows does not answer.
        """
        ...
