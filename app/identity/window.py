"""Who stands at the window: found or made by the number of the identity card that a clerk has in hand.

One person is one resident: the number's blind index is unique, so of two windows that make the same person at once one does. What the clerk
has seen counts for what is done at the window. An account that exists already is not raised by it: the clerk sees the person, not who
holds the phone that is signed in to it. One made here has no way to sign in yet; when its person proves the number online, both are
joined, at the level that was proven there (proving.py).
"""

from datetime import datetime

from pymongo.errors import DuplicateKeyError

from app.identity import store
from app.identity.model import LEVEL_FACE, Resident
from app.kernel.crypto import KeyRing
from app.kernel.errors import ValidationFailed, error_row
from app.kernel.ids import new_id
from app.kernel.numbers import check_id_number, plain_name
from app.storage.mongo import Database

_KEPT = 20  # of a regular at the window, the last ones


class Window:
    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._residents = database["residents"]
        self._keys = keys

    async def resident(self, name: str, id_number: str, by: str, now: datetime) -> Resident:
        """Return the resident of an identity card that was seen face to face; that `by` has seen it is kept with them.

        Raises:
            ValidationFailed: no such number, or it is registered under another name.
        """
        name = "".join(name.split())
        try:
            number = check_id_number(id_number)
        except ValueError as error:
            raise ValidationFailed([error_row("/id_number", "invalid", str(error))]) from error
        query = {"id_index": {"$in": self._keys.blind_indexes(number, purpose="id")}}
        document = await self._residents.find_one(query)
        if document is None:
            resident_id = new_id("res")
            new = store.new_resident(resident_id, now) | {"level": LEVEL_FACE}
            new |= store.sealed_fields(self._keys, resident_id, {"name": name, "id_number": number})
            try:
                await self._residents.insert_one(new)
            except DuplicateKeyError:  # at another window, at this moment
                pass
            document = await self._residents.find_one(query)
        assert document is not None
        found = store.opened(self._keys, document)
        if plain_name(found.name) != plain_name(name):
            raise ValidationFailed([error_row("/name", "mismatch", "这个身份证号码登记的是另一个姓名，请核对证件")])
        await self.seen(found.id, by, now)
        return found

    async def seen(self, resident_id: str, by: str, now: datetime) -> None:
        """Keep with a resident who has seen them and their identity card, and when."""
        seen = {"by": by, "at": now}
        await self._residents.update_one({"_id": resident_id}, {"$push": {"seen_at_window": {"$each": [seen], "$slice": -_KEPT}}})
