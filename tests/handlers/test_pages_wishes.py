"""The page on which a resident says how to be told: no script, only one's own matters, and what was not touched stays."""

from datetime import time

from tests.handlers.pages_world import World, sign_in, submitted, world  # noqa: F401

PATH = "/me/notices"


async def _wishes(world: World, browser):  # noqa: F811
    page = await browser.get("/me")
    owner = await world.hall.database["sessions"].find_one(sort=[("_id", -1)])
    assert page.status == 200 and owner
    return await world.hall.push.preferences(owner["resident_id"])


async def test_the_form_keeps_what_was_chosen_and_leaves_the_rest(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    page = await browser.get(PATH)
    assert "打电话" in page.text and "邮件" in page.text and "apns" not in page.html

    page = await browser.submit(page, PATH)
    assert page.path == PATH and "已保存" in page.text
    untouched = await _wishes(world, browser)
    assert untouched.allows("case", "sms") and not untouched.allows("case", "voice") and untouched.quiet_from is None

    sent = {"elder_mode": "1", "quiet": "1", "from": "21:30", "to": "07:15", "language": "en", "case.email": [], "notice.inbox": []}
    page = await browser.submit(page, PATH, **sent)
    wishes = await _wishes(world, browser)
    assert wishes.elder_mode and (wishes.quiet_from, wishes.quiet_to) == (time(21, 30), time(7, 15)) and wishes.language == "en"
    assert not wishes.allows("case", "email") and wishes.allows("order", "app") and wishes.refuses("notice")
    assert wishes.allows("case", "voice"), "elder mode brings calls, although the box stood empty"
    assert 'class="elder"' in page.html and "21:30" in page.html

    for wrong in ("25:99", "24:00", "22Z", "T2200", "22", ""):
        refused = await browser.submit(page, PATH, **{"quiet": "1", "from": wrong})
        assert refused.status == 422 and "请填写开始和结束的时间" in refused.text, wrong
    assert (await _wishes(world, browser)).quiet_from == time(21, 30)
    page = await browser.submit(await browser.get(PATH), PATH, **{"quiet": [], "elder_mode": []})
    wishes = await _wishes(world, browser)
    assert wishes.quiet_from is None and not wishes.elder_mode


async def test_a_case_is_kept_quiet_by_its_owner_alone(world: World) -> None:  # noqa: F811
    stranger = await sign_in(world)
    owner = await sign_in(world)
    case = await submitted(world, owner)
    case_id = case.path.split("/")[-1]
    assert f"{PATH}?case={case_id}" in case.html
    page = await owner.get(f"{PATH}?case={case_id}")

    page = await owner.submit(page, f"{PATH}/quiet", button=("on", "1"))
    assert "少打扰的事" in page.text and (await _wishes(world, owner)).quiet_cases == {case_id}

    assert "居民身份证" not in (await stranger.get(f"{PATH}?case={case_id}")).text
    token = dict((await stranger.get(PATH)).form(PATH).values)["_xsrf"]
    answer = await stranger.post(f"{PATH}/quiet", {"_xsrf": token, "kind": "case", "key": case_id, "on": "1"})
    assert answer.status == 404

    page = await owner.submit(await owner.get(PATH), f"{PATH}/quiet", button=("on", "0"))
    assert "少打扰的事" not in page.text and not (await _wishes(world, owner)).quiet_cases


async def test_ending_a_session_on_the_page_forgets_its_devices(world: World) -> None:  # noqa: F811
    browser = await sign_in(world)
    session = await world.hall.database["sessions"].find_one(sort=[("_id", -1)])
    owner_id = session["resident_id"]
    await world.hall.push.put_device(owner_id, "reg-1", "android", "vivo", session["_id"])
    await world.hall.push.put_device(owner_id, "reg-2", "android", "vivo", "ses_of_another_phone")

    await browser.submit(await browser.get("/me"), "/sign-out")

    assert [one["_id"] for one in await world.hall.push.store.devices(owner_id)] == ["reg-2"]
