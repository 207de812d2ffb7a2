"""What a resident has proven, and the joining of two residents that turn out to be one person.

A verified phone or citizen number that another resident holds already shows that both are one: the younger is joined into the older,
in one transaction with the event that tells of it. The joined id leads to the one that stays for good.

What was proven by a face is not opened by a name and a number, which many know of many: such a newcomer has the number as a claim
(`id_claim_index`), acts at L3 for itself, and is joined when its own face check has passed.
"""

from datetime import timedelta
from typing import Any

from app.identity import errors, store
from app.identity.model import LEVEL_FACE, LEVEL_PHONE, LEVEL_REAL_NAME
from app.kernel.clock import utc_now
from app.kernel.crypto import KeyRing
from app.kernel.events import new_event
from app.storage import outbox
from app.storage.mongo import Database

# Longer than a session is trusted without asking (sessions.SESSION_TRUST_S) plus the longest request.
SETTLED_AFTER = timedelta(seconds=30)


class Proving:
    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._keys = keys

    async def holder_of_phone(self, number: str, session: Any = None) -> dict[str, Any] | None:
        """Return who signs in with this number: as the resident's number, or as one that a joined resident brought along."""
        indexes = self._keys.blind_indexes(number, purpose="phone")
        residents = self._database["residents"]
        document: dict[str, Any] | None = await residents.find_one({"phone_index": {"$in": indexes}}, session=session)
        if document is None:
            alias = await self._database["channel_identities"].find_one(
                {"_id": {"$in": [f"sms:{index}" for index in indexes]}}, session=session
            )
            if alias is not None:
                document = await store.load_resident(residents, alias["resident_id"], session)
        return document

    async def prove(self, resident_id: str, *, level: int = 0, **proven: str) -> tuple[str, str | None]:
        """Write what was proven (phone, or name and id_number, or the level), joining the person's other resident if there is one.

        Returns the id of the resident that stays, and of the one that was joined into it, if any.

        Raises:
            errors.PhoneTaken: the phone belongs to a person with another citizen number.
        """

        async def write(session: Any) -> tuple[str, str | None]:
            residents = self._database["residents"]
            mine = await store.load_resident(residents, resident_id, session)
            other = await self._other_holder(mine, proven, level, session)
            is_claim = other is not None and "id_number" in proven and mine["level"] < LEVEL_FACE <= other["level"]
            if other is None or is_claim:
                await self._set_proven(mine, proven, level, session, is_claim=is_claim)
                return mine["_id"], None
            older, younger = sorted((mine, other), key=lambda document: document["_id"])
            await self._join(younger, older, proven, level, session)
            return older["_id"], younger["_id"]

        return await self._database.transaction(write)

    async def _other_holder(
        self, mine: dict[str, Any], proven: dict[str, str], level: int, session: Any
    ) -> dict[str, Any] | None:
        shown = dict(proven)
        if level >= LEVEL_FACE and "id_claim_index" in mine:
            shown["id_number"] = store.opened(self._keys, mine).id_number
        for name in ("id_number", "phone"):
            if name not in shown:
                continue
            if name == "phone":
                other = await self.holder_of_phone(shown[name], session)
            else:
                indexes = self._keys.blind_indexes(shown[name], purpose="id")
                other = await self._database["residents"].find_one({"id_index": {"$in": indexes}}, session=session)
            if other is None or other["_id"] == mine["_id"]:
                continue
            numbers = {number for each in (mine, other) if (number := each.get("id_index") or each.get("id_claim_index"))}
            if len(numbers) > 1:
                # Two persons of different citizen numbers: numbers get new holders, so this proves nothing.
                raise errors.PhoneTaken("这个手机号已绑定另一个实名账号；如果换了号码，请到窗口或拨打12345更新。")
            return other
        return None

    async def _set_proven(
        self, mine: dict[str, Any], proven: dict[str, str], level: int, session: Any, *, is_claim: bool
    ) -> None:
        reached = max(
            mine["level"],
            level,
            LEVEL_REAL_NAME if "id_number" in proven else 0,
            LEVEL_PHONE if "phone" in proven else 0,
        )
        fields = store.sealed_fields(self._keys, mine["_id"], proven)
        dropped: dict[str, str] = {}
        if is_claim:
            fields["id_claim_index"] = fields.pop("id_index")
        elif "id_claim_index" in mine and ("id_number" in proven or level >= LEVEL_FACE):  # whoever held the number is gone
            fields["id_index"], dropped = mine["id_claim_index"], {"id_claim_index": ""}
        update: dict[str, Any] = {"$set": {**fields, "level": reached}, "$inc": {"version": 1}}
        await self._database["residents"].update_one(
            {"_id": mine["_id"]}, update | ({"$unset": dropped} if dropped else {}), session=session
        )

    async def _join(
        self, younger: dict[str, Any], older: dict[str, Any], proven: dict[str, str], level: int, session: Any
    ) -> None:
        """Join the younger resident into the older one, in the caller's transaction."""
        values = {
            name: value
            for document in (younger, older)
            for name, value in vars(store.opened(self._keys, document)).items()
            if name in ("name", "id_number", "phone", "address") and value
        } | proven
        level = max(level, younger["level"], older["level"])
        if "id_number" in proven:
            # A face check was of one of the two; name and number alone do not carry it over to the other's channels.
            level = min(level, LEVEL_REAL_NAME)
        level = max(level, LEVEL_REAL_NAME if values.get("id_number") else LEVEL_PHONE)
        residents = self._database["residents"]
        fields = store.sealed_fields(self._keys, older["_id"], values)
        has_claim = any("id_claim_index" in each for each in (younger, older))
        if has_claim and not any("id_index" in each for each in (younger, older)):  # a third account holds the number
            fields["id_claim_index"] = fields.pop("id_index")
            has_claim = False
        await residents.update_one(
            {"_id": younger["_id"]},
            {
                "$set": {"merged_into": older["_id"]},
                "$unset": dict.fromkeys(("phone_index", "id_index", "id_claim_index", "name", "id_number", "phone", "address"), ""),
                "$inc": {"version": 1},
            },
            session=session,
        )
        await residents.update_one(
            {"_id": older["_id"]},
            {"$set": {**fields, "level": level}, "$inc": {"version": 1}} | ({"$unset": {"id_claim_index": ""}} if has_claim else {}),
            session=session,
        )
        if younger.get("phone_index") and older.get("phone_index") != younger["phone_index"] and older.get("phone_index"):
            # The older one's number stays the one that is written to; the other one still signs in.
            alias = {"provider": "sms", "resident_id": older["_id"], "created_at": utc_now(), "last_login_at": utc_now()}
            await self._database["channel_identities"].replace_one(
                {"_id": f"sms:{younger['phone_index']}"}, alias, upsert=True, session=session
            )
        for collection in ("channel_identities", "sessions"):
            await self._database[collection].update_many(
                {"resident_id": younger["_id"]}, {"$set": {"resident_id": older["_id"]}}, session=session
            )
        channel = await self._database["channel_identities"].find_one(
            {"resident_id": older["_id"]}, sort=[("last_login_at", -1)], session=session
        )
        facts = {
            "from": younger["_id"],
            "into": older["_id"],
            "channel": channel["provider"] if channel else "sms",
        }
        about: dict[str, Any] = {"subject": ("resident", older["_id"]), "owner_id": older["_id"], "data": facts}
        await outbox.append(self._database, session, [new_event("identity.joined", **about)])
        # Once more when no request can be left that knew the younger one: what such a request made moves over too.
        settled = new_event("identity.join_settled", **about)
        await outbox.append(self._database, session, [settled], not_before=settled.at + SETTLED_AFTER)
