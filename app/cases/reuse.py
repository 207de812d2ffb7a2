"""Materials that an office has accepted once, offered again for the same paper in the owner's later cases, with their age and what they are worth.

Nothing is taken over by itself: the owner chooses, and the clerk sees where a file comes from. How long a paper stays good is the item's to
say (`reuse_days` of a material, 0: never again).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.cases import errors, machine, materials
from app.cases.holdings import Holdings
from app.cases.model import Case
from app.cases.ports import Catalogue
from app.cases.store import CaseStore
from app.kernel.clock import shanghai_day

ACCEPTED, UPLOADED = "accepted_by_agency", "uploaded"
REUSE_DAYS = 180
_EARLIER_CASES = 30
_MOST_OFFERS = 3


class Reuse:
    def __init__(self, store: CaseStore, catalogue: Catalogue, holdings: Holdings, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._catalogue = catalogue
        self._holdings = holdings
        self._clock = clock

    async def offers(self, case: Case) -> dict[str, list[dict[str, Any]]]:
        """Return by material key what may be taken over, the youngest first; nothing for a case that takes no materials now.

        `[{file_ids, name, from_case, from_number, key, accepted_on, age_days, trust}]`: `name` of the first file, `age_days` since it
        was uploaded.
        """
        return {key: [offer for offer, _entries in found] for key, found in (await self._found(case)).items()}

    async def take_over(self, case_id: str, resident_id: str, key: str, from_case: str, from_key: str) -> Case:
        """Hand in what an earlier case of the same person held. Taking it over twice changes nothing.

        Raises:
            MaterialNotFound: nothing of that is on offer (any more); ActionNotAllowed, CaseNotFound, FileTooLarge.
        """
        case = await self._holdings.may_hand_in(case_id, resident_id, key)
        for offer, entries in (await self._found(case)).get(key, ()):
            if (offer["from_case"], offer["key"]) == (from_case, from_key):
                return await self._holdings.take_over(case_id, resident_id, key, entries)
        raise errors.MaterialNotFound("上次交过的这份材料现在不能用了，请重新上传。", en="It cannot be used again; upload it.")

    async def _found(self, case: Case) -> dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]]:
        allowed = machine.allowed_actions(case, machine.RESIDENT)
        if not {"save", "hand_in", "replace_material"} & set(allowed):
            return {}
        item = await self._catalogue.item_at(case.item_code, case.item_version)
        wanted = [material for material in materials.needed(item, case.answers) if material["source"] != "system"]
        earlier = [each for each in await self._store.accepted_of(case.owner_id, _EARLIER_CASES) if each["id"] != case.id]
        found: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
        for each in earlier:
            old_item = await self._catalogue.item_at(each["item_code"], each["item_version"])
            old = {material["key"]: material for material in old_item["materials"]}
            for old_key, held in each["materials"].items():
                for material in wanted:
                    if old_key in old and is_same_paper(material, old[old_key]):
                        made = self._offer(each, old_key, held.get("files", ()), material)
                        if made is not None:
                            found.setdefault(material["key"], []).append(made)
        for offers in found.values():
            offers.sort(key=lambda made: made[0]["age_days"])
            del offers[_MOST_OFFERS:]
        return found

    def _offer(
        self, earlier: Mapping[str, Any], key: str, files: Sequence[Mapping[str, Any]], material: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        now = self._clock()
        limit = timedelta(days=material.get("reuse_days", REUSE_DAYS))
        fresh = [entry for entry in files if now - materials.uploaded_at(entry) < limit and entry.get("scan") != "infected"]
        if not fresh or len(fresh) < len(files):  # half a paper is none
            return None
        accepted_on = shanghai_day(earlier["accepted_at"]).isoformat()
        offer = {
            "file_ids": [entry["id"] for entry in fresh],
            "name": fresh[0]["name"],
            "from_case": earlier["id"],
            "from_number": earlier["number"],
            "key": key,
            "accepted_on": accepted_on,
            "age_days": max((now - materials.uploaded_at(entry)).days for entry in fresh),
            "trust": ACCEPTED,
        }
        entries = [
            {**entry, "at": now, "uploaded_at": materials.uploaded_at(entry), "from_case": earlier["id"], "accepted_on": accepted_on}
            for entry in fresh
        ]
        for entry in entries:
            entry.pop("upload_id", None)
        return offer, entries


def is_same_paper(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two materials of items ask for the same paper: one that the same kind of licence replaces, or of the same name.

    The key alone says little: `photo` or `bank` of another item is another paper.
    """
    if one.get("licence") and one.get("licence") == other.get("licence"):
        # 申请人 and 代办人 have the same kind of card and are not the same person.
        return one["key"] == other["key"]
    return bool(one["name"] == other["name"])
