"""Who is part of a campaign while accounts are joined and made."""

from dataclasses import replace
from datetime import timedelta

from app.kernel.clock import utc_now
from app.kernel.ids import new_id
from push.campaigns import sending
from tests.push.campaigns.office import Office


async def test_two_accounts_of_one_person_get_one_message(office: Office):
    older, younger = await office.residents(2)
    await office.case(younger)
    segment = sending.from_document({"kind": "applicants", "agency_id": "", "divisions": [], "items": ["id_card_lost"], "themes": [],
                                     "from_on": None, "until_on": None})  # fmt: skip
    # Known to be one before the walk comes to them.
    await join(office, younger, older)
    first = await office.approved(channels=(), segment=segment)
    await office.run_out(first)
    assert await office.told(first) == [older]
    # Both were told before it is known.
    mine, too = await office.residents(2)
    second = await office.approved(channels=())
    await office.run()
    await join(office, too, mine)
    await office.run_out(second)
    assert sorted(await office.told(second)) == [older, mine]
    # The walk has passed the older account, and only then the younger one's case comes to it.
    third_mine, third_too = await office.residents(2)
    await office.case(third_too)
    third = await office.approved(channels=(), segment=segment)
    await office.run(0)
    await office.campaigns.sending._step(third, "begin", utc_now(), {"next_at": utc_now(), "before": new_id("res"), "cursor": third_too})
    await join(office, third_too, third_mine)
    await office.run_out(third)
    assert await office.told(third) == [third_mine]
    # The same, and the campaign had finished before the join was heard of.
    fourth_mine, fourth_too = await office.residents(2)
    segment = replace(segment, items=("school_enrol",))
    fourth = await office.approved(channels=(), segment=segment)
    await office.run_out(fourth)
    assert await office.told(fourth) == []
    await office.case(fourth_mine, item="school_enrol")  # came over from the younger account when the walk had passed the older
    for _ in range(2):  # the event comes at least once
        await join(office, fourth_too, fourth_mine)
        await office.run(2)
    assert await office.told(fourth) == [fourth_mine]
    assert (await office.database["campaigns"].find_one({"_id": fourth}))["is_active"] is False


async def test_one_who_has_two_accounts_with_a_text_message_each_still_waiting_gets_one_of_them(office: Office):
    older, younger = await office.residents(2, phone=True)
    office.desk.town.phones[younger] = office.desk.town.phones[older]
    campaign_id = await office.approved()
    await office.run()

    await join(office, younger, older)
    found = await office.run_out(campaign_id)

    assert await office.told(campaign_id) == [older]
    assert await office.texted() == [office.desk.town.phones[older]]
    assert (found["progress"]["sent"], found["progress"]["merged"], found["progress"]["waiting"]) == (1, 1, 0)


async def test_one_who_was_texted_on_one_account_is_not_texted_on_the_other_after_the_join(office: Office):
    older, younger = await office.residents(2, phone=True)
    office.desk.town.phones[younger] = office.desk.town.phones[older]
    campaign_id = await office.approved()
    await office.run()
    await office.database["deliveries"].update_one({"owner_id": older}, {"$set": {"next_at": utc_now() + timedelta(seconds=30)}})
    await office.desk.push.deliver_due(lane="campaign")  # the older account's waits for the end of its quiet hours

    await join(office, younger, older)
    await office.desk.push.deliver_due(utc_now() + timedelta(seconds=60), lane="campaign")
    found = await office.run_out(campaign_id)

    assert await office.told(campaign_id) == [older] and await office.texted() == [office.desk.town.phones[older]]
    assert (found["progress"]["sent"], found["progress"]["merged"], found["progress"]["waiting"]) == (1, 1, 0)


async def join(office: Office, from_id: str, into_id: str) -> None:
    """As app.identity does: the accounts, then everything that hangs on them."""
    await office.database["residents"].update_one({"_id": from_id}, {"$set": {"merged_into": into_id}})
    await office.database["cases"].update_many({"owner_id": from_id}, {"$set": {"owner_id": into_id}})
    await office.desk.push.reassign(from_id, into_id)
    await office.campaigns.reassign(from_id, into_id)


async def test_who_registers_during_the_run_is_not_part_of_it(office: Office):
    before = await office.residents(4)
    campaign_id = await office.approved(channels=(), rate=4)
    await office.run(for_s=0.1)
    await office.residents(3)

    await office.run_out(campaign_id)

    assert await office.told(campaign_id) == before


async def test_two_accounts_made_after_it_ended_hear_nothing_when_they_are_joined(office: Office):
    people = await office.residents(2)
    campaign_id = await office.approved(channels=())
    await office.run_out(campaign_id)
    mine, too = await office.residents(2)
    await join(office, too, mine)
    await office.run(2)
    assert await office.told(campaign_id) == sorted(people)
