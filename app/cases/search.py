"""Finding a case by its number, or by what its applicant says of themselves.

Equal names, phones and numbers are found by blind index, bound to the agency (listed.py): a search can only ever find what is its own.
"""

import re
import unicodedata
from typing import Any

from app.cases.listed import blind_indexes, normalised
from app.cases.model import Case, State
from app.cases.store import CaseStore
from app.identity.model import StaffSession
from app.kernel.audit import record
from app.kernel.crypto import KeyRing
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.numbers import check_credit_code, check_id_number, check_mobile
from app.storage.limits import Limit
from app.storage.mongo import Database

MOST = 50
# Why somebody is looked for (个人信息保护法 art. 6: a purpose that is clear).
PURPOSES = {"handling": "办理业务", "inquiry": "群众来问", "complaint": "投诉处理", "inspection": "检查核实"}

_TAIL = re.compile(r"[0-9A-Z]{6,}")



class Search:
    def __init__(self, database: Database, store: CaseStore, keys: KeyRing, limit: Limit) -> None:
        self._database = database
        self._store = store
        self._keys = keys
        self._limit = limit

    async def find(self, staff: StaffSession, text: str, purpose: str) -> list[Case]:
        """Return the agency's cases that fit, newest first: at most `MOST`. Who looked for what kind of thing, and why, is recorded.

        Args:
            text: a case number or its last six characters or more, a name, a phone, a citizen number, a credit code.
            purpose: a name of `PURPOSES`.

        Raises:
            ValidationFailed: nothing that could be looked for.
            RateLimited: this account has searched too often.
        """
        await self._limit.require(staff.account, "查得太多了，请稍后再查。")
        kinds, either = self._either(staff.agency_id, text)
        if not either:
            raise ValidationFailed([error_row("/q", "invalid", "请输入办件编号（或最后6位以上）、姓名、手机号、身份证号码或信用代码")])
        await self._limit.count(staff.account)
        found: dict[str, Case] = {}
        for query in either:
            documents = await self._store.collection.find(
                {**query, "worklist_agencies": staff.agency_id, "state": {"$ne": State.DRAFT.value}}
            ).sort("_id", -1).limit(MOST).to_list()
            found |= {case.id: case for case in self._store.opened(documents)}
        cases = [found[case_id] for case_id in sorted(found, reverse=True)[:MOST]]
        await record(
            self._database["audit"],
            actor=staff.account,
            action="case.search",
            subject=f"{staff.agency_id}.{'+'.join(kinds)}",
            owner_id="",
            purpose=PURPOSES[purpose],
            subjects=[case.id for case in cases],
        )
        return cases

    def _either(self, agency: str, text: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Return what the text may be, and a query for each: eleven digits can be a phone or the end of a number."""
        plain = "".join(unicodedata.normalize("NFKC", text).split()).upper()
        kinds: list[str] = []
        queries: list[dict[str, Any]] = []
        for kind, check in (("phone", check_mobile), ("id", check_id_number), ("credit", check_credit_code)):
            try:
                value = check(plain)
            except ValueError:
                continue
            kinds.append(kind)
            queries.append(self._blind(agency, kind, value))
        if _TAIL.fullmatch(plain) and any(letter.isdigit() for letter in plain):
            kinds.append("number")
            end = plain[::-1]
            queries.append({"number_reversed": {"$gte": end, "$lt": end + "\uffff"}})
        if not queries and len(name := normalised("name", text)) >= 2:
            kinds.append("name")
            queries.append(self._blind(agency, "name", name))
        return kinds, queries

    def _blind(self, agency: str, kind: str, value: str) -> dict[str, Any]:
        return {"find_by": {"$in": blind_indexes(self._keys, agency, kind, value)}}
