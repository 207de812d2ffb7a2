"""Publishing says where applications would go and nobody works."""

from app.catalogue.load import load_catalogue
from commands.publish import without_accounts
from config.settings import ROOT


async def test_a_body_that_gets_cases_and_has_no_account_is_named(database):
    catalogue = load_catalogue(ROOT / "config" / "catalogue")
    alone = await without_accounts(database, catalogue)
    assert "始兴县民政局 (sg-mzj-440222)" in alone and "韶关市公安局 (sg-gaj)" in alone
    assert not [name for name in alone if "始兴县公安局" in name], "no item says that it handles any"

    rows = [{"_id": f"clerk.{row['id']}", "agency_id": row["id"]} for row in catalogue.agencies if row["id"] != "sg-mzj-440222"]
    await database["staff"].insert_many([*rows, {"_id": "gone", "agency_id": "sg-mzj-440222", "disabled": True}])

    assert await without_accounts(database, catalogue) == ["始兴县民政局 (sg-mzj-440222)"]
