"""Applications and supplements handed in: whatever comes at the same moment is judged case by case and written in one transaction.

Guarantees:
- An answered hand-in is on disk with a majority: the case, the events that tell of it and its papers together. A death at any command
  leaves all or nothing, and the same `command` again finds what was done.
- Everything a judgement counts on is read in the transaction that writes it: the case, who the applicant is, whether the licences are valid,
  what the scanner said. The version of each case is in the filter of its write.
- However many save answers of the same draft meanwhile, it is handed in: one that lost against a save holds its case before it reads it again.
- None depends on what the others are. One that is refused gets its refusal and no trace is left of it; when a batch cannot be written
  nothing of it is, and every member goes on in a transaction of its own. A caller that goes away takes nobody along.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

import structlog
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure

from app.cases import errors, forms, steps
from app.cases.drafts import Drafts
from app.cases.holdings import Holdings, Worth, spoiled_rows
from app.cases.model import Case, State
from app.cases.papers import Papers
from app.cases.ports import People
from app.cases.store import CaseStore, Change
from app.identity.model import Resident
from app.kernel.errors import NotFound
from app.storage.gather import Gather
from app.storage.mongo import Database

log = structlog.get_logger(__name__)

# A case, its item, the applicant, and the applicant's valid licences among those handed in: id -> type.
Step = Callable[[Case, Mapping[str, Any], Resident, Mapping[str, str]], steps.Moved]


@dataclass(frozen=True)
class HandedIn:
    """A case as it was handed in, and what its transaction knew beside it, so that no answer has to ask again.

    `scans`: what the scanner said of files it had not seen when they came. `papers`: all of the case; None where it may have older ones.
    """

    case: Case
    scans: Mapping[str, str]
    papers: Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class _HandIn:
    """One hand-in on its way into a batch; `context` is its request's, whose id its events carry."""

    case_id: str
    owner_id: str
    command: str | None
    step: Step
    context: Context


class Submissions:
    def __init__(
        self, database: Database, store: CaseStore, drafts: Drafts, holdings: Holdings, people: People, papers: Papers
    ) -> None:
        self._database = database
        self._store = store
        self._drafts = drafts
        self._holdings = holdings
        self._people = people
        self._papers = papers
        # One is judged and sent while the others commit.
        self._together: Gather[_HandIn, HandedIn | None] = Gather(self._write_together, at_most=32, in_flight=2)

    async def hand_in(self, case_id: str, owner_id: str, step: Step, command: str | None) -> HandedIn:
        """Take a step that counts on what was handed in. `step` is pure and may run twice; see service.submit for `command` and errors."""
        member = _HandIn(case_id, owner_id, command, step, copy_context())
        done: HandedIn | Exception | None = await self._together.add(member)
        if done is None:
            [done] = await self._write([member])
        if isinstance(done, Exception):
            raise done
        assert done is not None
        return done

    async def _write_together(self, batch: list[_HandIn]) -> Sequence[HandedIn | Exception | None]:
        """Return what `_write` does; None where a member has to go alone."""
        try:
            # What holds one of them up (until a dead process's transaction is given up) must not hold up all.
            return await self._write(batch, most_runs=2)
        except ConnectionFailure:  # perhaps written, perhaps not: each caller asks again
            raise
        except Exception as error:  # one of them, and which one shows when each goes alone
            log.warning("case.batch_fell_apart", count=len(batch), error=type(error).__name__)
            return [None] * len(batch)

    async def _write(self, batch: Sequence[_HandIn], most_runs: int | None = None) -> list[HandedIn | Exception | None]:
        """Judge and write hand-ins in one transaction: of each what became of it, its refusal, or None for the second one of a case."""
        answers: list[HandedIn | Exception | None] = []
        runs = 0

        async def work(session: AsyncClientSession) -> None:
            nonlocal runs
            runs += 1
            if most_runs is not None and runs > most_runs:
                raise errors.CaseConflict("办件刚刚被更新，请刷新后再操作。", en="Others are changing one of these cases.")
            answers[:] = [None] * len(batch)  # a transaction may run more than once
            if runs > 1:  # somebody wrote between our read and our write, and where many do would do so every time
                await self._store.hold({member.case_id for member in batch}, {member.owner_id for member in batch}, session)
            found, worth, residents = await self._read(batch, session)
            changes: dict[int, Change] = {}
            papers: dict[int, list[dict[str, Any]]] = {}
            seen: set[str] = set()
            for place, member in enumerate(batch):
                if member.case_id in seen:
                    continue
                seen.add(member.case_id)
                try:
                    case, item = await self._drafts.current(_own(found, member))
                    resident = residents.get(member.owner_id)
                    if resident is None:
                        raise NotFound("没有找到这个账号。", en="No such resident.")
                    moved = member.context.run(_judged, member, case, item, resident, worth)
                    issued = self._papers.written(moved.case, moved.events, item)
                except Exception as error:
                    answers[place] = error
                    continue
                if moved.case is case:
                    answers[place] = HandedIn(case, worth.scans, None)
                else:
                    changes[place] = Change(moved.case, moved.events, forms.personal_keys(item))
                    papers[place] = issued
            for place, case in zip(changes, await self._store.save_all(list(changes.values()), session), strict=True):
                is_first = _own(found, batch[place]).state is State.DRAFT
                answers[place] = HandedIn(case, worth.scans, papers[place] if is_first else None)
            await self._papers.keep([paper for issued in papers.values() for paper in issued], session)

        await self._database.transaction(work)
        return answers

    async def _read(
        self, batch: Sequence[_HandIn], session: AsyncClientSession
    ) -> tuple[Mapping[str, Case | Exception], Worth, Mapping[str, Resident]]:
        found = await self._store.load_all([member.case_id for member in batch], session)
        worth = await self._holdings.worth([case for case in found.values() if isinstance(case, Case)], session)
        return found, worth, await self._people.residents({member.owner_id for member in batch}, session)


def _own(found: Mapping[str, Case | Exception], member: _HandIn) -> Case:
    case = found.get(member.case_id)
    if isinstance(case, Exception):
        raise case
    if case is None or case.owner_id != member.owner_id:
        raise errors.CaseNotFound
    return case


def _judged(member: _HandIn, case: Case, item: Mapping[str, Any], resident: Resident, worth: Worth) -> steps.Moved:
    """Return where a hand-in leads. Raises what its step does, and Incomplete for whatever is missing, wrong or spoiled, all at once."""
    if member.command is not None and case.last_command == member.command:
        return steps.Moved(case)
    spoiled = spoiled_rows(case, item, worth)
    try:
        moved = member.step(case, item, resident, worth.licences_of(case.owner_id))
    except errors.Incomplete as error:
        told = {row["pointer"] for row in error.errors}
        raise errors.Incomplete([*error.errors, *(row for row in spoiled if row["pointer"] not in told)]) from None
    if spoiled:
        raise errors.Incomplete(spoiled)
    return moved
