"""What a case owes: the hall's payments ask here through their PayableSource protocol, which this fulfils by shape."""

from dataclasses import dataclass
from datetime import datetime

from app.cases import errors
from app.cases.model import State
from app.cases.service import Cases


@dataclass(frozen=True)
class Line:
    """One line of an order."""

    title: str
    amount_fen: int
    payee: str
    paid_for: str = ""


@dataclass(frozen=True)
class Quote:
    """What is owed for one case now, to which agency, at which version of the case."""

    title: str
    agency_id: str
    lines: tuple[Line, ...]
    subject_version: int
    pay_by: datetime | None = None
    after: tuple[str, ...] = ()


class CasePayables:
    def __init__(self, cases: Cases) -> None:
        self._cases = cases

    async def quote(self, payable_id: str, resident_id: str) -> Quote:
        """Return what the resident's own case owes now. The prices are those frozen at submission.

        Raises:
            CaseNotFound, FeeAlreadyPaid, NothingDue.
        """
        case = await self._cases.get(payable_id, resident_id)
        due = case.due_fees
        if case.state is not State.AWAITING_PAYMENT or not due:
            if any(fee.state == "paid" for fee in case.fees):
                raise errors.FeeAlreadyPaid("这个办件的费用已经缴过了，不用再缴。", en="The fee is paid already.")
            raise errors.NothingDue("这个办件现在没有要缴的费用。", en="Nothing is due for this case now.")
        return Quote(
            title=case.item_name,
            agency_id=case.agency_id,
            lines=tuple(Line(fee.name, fee.amount_fen, case.agency_name) for fee in due),
            subject_version=case.version,
        )
