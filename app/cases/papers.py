"""Papers of a case (文书): what a step said, kept for ever as it was said, with a number, a check code and a public check.

Guarantees: a paper is written in the transaction of its step, so there are both or neither, and one per step however often it is retried:
its number follows from the case and from how often such a step was taken, and is the document's id. The words are kept and not made
anew, sealed; no later step, correction or newer wording changes them. What is told of it afterwards (overtaken, withdrawn) follows from
the case's other papers and its state.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession

from app.cases import paper_texts
from app.cases.errors import PaperNotFound
from app.cases.model import Case, State
from app.cases.paper_pdf import render
from app.cases.paper_texts import Step, Text
from app.kernel.clock import format_utc
from app.kernel.crypto import KeyRing
from app.kernel.events import Event
from app.kernel.ids import random_code
from app.storage.gather import Gather
from app.storage.mongo import Database

INDEXES = {"papers": [IndexModel([("case_id", ASCENDING), ("issued_at", ASCENDING)], name="of_case")]}
CODE_LENGTH = 8
NUMBER = r"[0-9A-Za-z]{1,60}-[A-Z]{1,4}[0-9]{1,3}"
_DRAWN_AT_ONCE = 2  # drawing is CPU: what is asked for meanwhile waits here and not in the threads that everybody shares


@dataclass(frozen=True)
class Kind:
    """A kind of paper: its mark in the number, the steps that issue it, and which later papers overtake it."""

    mark: str
    events: frozenset[str]
    text: Callable[[Step], Text]
    overtaken_by: frozenset[str] = frozenset()


KINDS: Mapping[str, Kind] = {
    "application": Kind(
        "SQ",
        frozenset({"case.submitted", "case.supplemented", "case.correction_answered"}),
        paper_texts.application,
        frozenset({"application"}),
    ),
    "receipt": Kind("SJ", frozenset({"case.submitted", "case.supplemented"}), paper_texts.receipt, frozenset({"receipt"})),
    "supplement": Kind(
        "BZ", frozenset({"case.supplement_requested"}), paper_texts.supplement, frozenset({"supplement", "receipt", "refusal"})
    ),
    "acceptance": Kind("SL", frozenset({"case.accepted", "case.deemed_accepted"}), paper_texts.acceptance),
    "refusal": Kind("BSL", frozenset({"case.not_accepted", "case.supplement_expired"}), paper_texts.refusal),
    "suspension": Kind("TX", frozenset({"case.suspended"}), paper_texts.suspension, frozenset({"suspension", "decision"})),
    "hearing": Kind("TZ", frozenset({"case.hearing_told"}), paper_texts.hearing, frozenset({"decision"})),
    "extension": Kind("YQ", frozenset({"case.extended"}), paper_texts.extension),
    "decision": Kind("JD", frozenset({"case.approved", "case.denied", "case.deemed_renewed"}), paper_texts.decision),
    "completion": Kind("BJ", frozenset({"case.completed"}), paper_texts.completion),
}

STATES = {"in_force": "有效", "overtaken": "已被后来的文书代替", "withdrawn": "申请已撤回"}


class Papers:
    def __init__(
        self, database: Database, keys: KeyRing, division: Callable[[str], Mapping[str, Any] | None], public_url: str
    ) -> None:
        self._papers = database["papers"]
        self._cases = database["cases"]
        self._keys = keys
        self._division = division
        self._public_url = public_url
        self._drawing = asyncio.Semaphore(_DRAWN_AT_ONCE)
        # What views ask for at the same moment is one read.
        self._read: Gather[str, list[dict[str, Any]]] = Gather(self._of_cases, in_flight=2)

    def written(self, case: Case, events: Sequence[Event], item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the papers that a step issues, as documents. Pure, but for a new check code.

        Args:
            case: as it is after the step.
        """
        return [
            self._document(kind, Step(case, event, item, self._division_name))
            for event in events
            for kind in KINDS
            if is_issued(kind, event)
        ]

    async def keep(self, documents: Sequence[Mapping[str, Any]], session: AsyncClientSession) -> None:
        """Store what `written` gave, in the transaction that writes the cases and their events."""
        if documents:
            await self._papers.insert_many(documents, session=session)

    def _document(self, kind: str, step: Step) -> dict[str, Any]:
        case, text = step.case, KINDS[kind].text(step)
        number = number_of(case, kind)
        applicant = str(case.form.get("name") or case.form.get("org_name") or "")
        is_theirs = kind == "application"
        words = {
            "to": case.agency_name if is_theirs else applicant,
            "signed": (applicant or "申请人") if is_theirs else case.agency_name,
            "rows": text.rows,
            "paragraphs": text.paragraphs,
        }
        return {
            "_id": number,
            "case_id": case.id,
            "kind": kind,
            "title": text.title,
            "code": random_code(CODE_LENGTH),
            "item_name": case.item_name,
            "agency_name": case.agency_name,
            "issued_at": step.event.at,
            "words_sealed": self._keys.seal(orjson.dumps(words).decode(), context=f"{number}.words"),
        }

    def _division_name(self, code: str) -> str:
        division = self._division(code)
        return code if division is None else str(division["name"])

    async def of(self, case: Case, issued: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """Return the papers of a case as its owner and its agency see them in a list, oldest first.

        Args:
            issued: their documents, where they are known.
        """
        documents = await self._of_case(case.id) if issued is None else _in_order(issued)
        return [
            {
                "number": document["_id"],
                "kind": document["kind"],
                "title": document["title"],
                "issued_at": format_utc(document["issued_at"]),
                **_standing(document, documents, case.state),
            }
            for document in documents
        ]

    async def pdf(self, case: Case, number: str) -> tuple[str, bytes]:
        """Return (file name, PDF) of a paper of a case that the caller was let see. Raises PaperNotFound."""
        document = await self._papers.find_one({"_id": number, "case_id": case.id})
        if document is None:
            raise PaperNotFound
        shown = {
            **document,
            **orjson.loads(self._keys.open_sealed(document["words_sealed"], context=f"{number}.words")),
            "check_url": f"{self._public_url}/papers/{number}?code={document['code']}",
        }
        async with self._drawing:
            pdf = await asyncio.get_running_loop().run_in_executor(None, render, shown)
        return f"{number}.pdf", pdf

    async def check(self, number: str, code: str) -> dict[str, Any]:
        """Return what anybody who holds number and code may know: that it is real, of what kind, for what, whose, when, and whether it
        still stands. Nobody's name. Raises PaperNotFound, for a wrong code as for a number that is none.
        """
        document = await self._papers.find_one({"_id": number, "code": code}) if re.fullmatch(NUMBER, number) else None
        if document is None:
            raise PaperNotFound
        case = await self._cases.find_one({"_id": document["case_id"]}, {"state": 1})
        state = State(case["state"]) if case else State.COMPLETED
        return {
            "number": number,
            "valid": True,
            "kind": document["kind"],
            "title": document["title"],
            "item_name": document["item_name"],
            "agency_name": document["agency_name"],
            "issued_at": format_utc(document["issued_at"]),
            **_standing(document, await self._of_case(document["case_id"]), state),
        }

    async def _of_case(self, case_id: str) -> list[Mapping[str, Any]]:
        return await self._read.add(case_id)

    async def _of_cases(self, case_ids: list[str]) -> list[list[Mapping[str, Any]]]:
        # Bounded by the steps a case can take.
        found: dict[str, list[dict[str, Any]]] = {case_id: [] for case_id in case_ids}
        for document in await self._papers.find({"case_id": {"$in": list(found)}}, {"words_sealed": 0}).to_list():
            found[document["case_id"]].append(document)
        return [_in_order(found[case_id]) for case_id in case_ids]


def _in_order(documents: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return papers of a case oldest first; of one step in the order of KINDS."""
    order = list(KINDS)
    return sorted(documents, key=lambda document: (document["issued_at"], order.index(document["kind"]), document["_id"]))


def is_issued(kind: str, event: Event) -> bool:
    """Say whether an event issues a paper of this kind. A correction that was refused leaves the form as it was."""
    return event.name in KINDS[kind].events and event.data.get("outcome") != "refused"


def number_of(case: Case, kind: str) -> str:
    """Return the number of the paper that the newest step of this kind issues: case number, mark, how often such a step was taken.

    Every such step leaves its line in the timeline, whose case is written by compare-and-set: no two steps get one number.
    """
    count = sum(entry.event in KINDS[kind].events for entry in case.timeline)
    return f"{case.number}-{KINDS[kind].mark}{count}"


def _standing(document: Mapping[str, Any], of_case: Sequence[Mapping[str, Any]], state: State) -> dict[str, str]:
    """Return whether a paper still stands: {"state", "state_name"}."""
    later = {other["kind"] for other in of_case if other["issued_at"] > document["issued_at"]}
    name = "in_force"
    if later & KINDS[document["kind"]].overtaken_by:
        name = "overtaken"
    elif state is State.WITHDRAWN:
        name = "withdrawn"
    return {"state": name, "state_name": STATES[name]}
