"""驾驶证期满换证: SMS sign-in, a supplement notice, and messages by text for somebody without any app."""

import pytest

from app.kernel.ids import ulid
from tests.journeys.conftest import settled
from tests.journeys.stories import a_name, an_id_number, assert_once_each, paid_attempt, submitted, wait_sent


async def test_with_sms_sign_in_and_one_supplement_notice(hall, anyone, clerk):
    phone = f"139{ulid()[-8:].translate(str.maketrans('ABCDEFGHJKMNPQRSTVWXYZ', '0123456789012345678901'))}"
    resident = await anyone.sign_in_sms(phone, hall.sandbox_url)
    assert resident.session["resident"]["level"] == 2
    await resident.prove("王示例", an_id_number())
    case = await submitted(resident, "driver_renew", {"agent": "no"}, {"delivery": "electronic", "file_no": "440200000015"})
    # Signed in by SMS alone there is no WeChat account to pay with: an honest answer, and nothing is lost.
    order = await resident.order("case", case["id"])
    with pytest.raises(Exception) as caught:
        await resident.pay(order["id"], "wechatpay")
    assert (caught.value.status, caught.value.code) == (409, "payment.payer_unknown")
    # The same person opens the mini-program. A name and a number, which others know too, show nothing of what a face has proven; a face does.
    name = a_name()
    wechat = await anyone.sign_in_wechat(name)
    newcomer = await wechat.post("/v1/me/real-name", {"name": "王示例", "id_number": (await _id_of(resident, case))})
    assert newcomer["level"] == 3 and newcomer["id"] != resident.session["resident"]["id"]
    assert (await wechat.get("/v1/cases"))["items"] == []
    await wechat.prove("王示例", await _id_of(resident, case))
    assert (await wechat.get("/v1/me"))["id"] == (await resident.get("/v1/me"))["id"]
    _order, _attempt = await paid_attempt(wechat, hall.sandbox_url, "case", case["id"])
    await resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted")

    officer = await clerk("sg-jj")
    await officer.act(case["id"], "request_supplement", missing=[{"key": "photo", "reason": "照片反光，请重拍"}])
    noticed = await resident.get(f"/v1/cases/{case['id']}")
    assert noticed["state"] == "supplement_required"
    assert noticed["supplement"]["missing"] == [{"key": "photo", "name": "证件照片", "reason": "照片反光，请重拍"}]
    with pytest.raises(Exception) as caught:
        await resident.post(f"/v1/cases/{case['id']}/supplement", key=ulid())
    assert [row["pointer"] for row in caught.value.problem["errors"]] == ["/materials/photo"]
    await resident.upload(case["id"], "photo")
    back = await resident.post(f"/v1/cases/{case['id']}/supplement", key=ulid())
    assert back["state"] == "submitted"
    with pytest.raises(Exception) as caught:  # 一次性告知: never a second notice
        await officer.act(case["id"], "request_supplement", missing=[{"key": "photo", "reason": "还是反光"}])
    assert (caught.value.status, caught.value.code) == (409, "case.action_not_allowed")
    await officer.act(case["id"], "accept")
    await officer.act(case["id"], "decide", outcome="approved", opinion="")
    await officer.act(case["id"], "deliver", method="electronic")
    inbox = await settled(resident)
    assert_once_each(
        [message for message in inbox if message["event"].startswith(("case.", "order.paid"))],
        ["case.submitted", "case.fee_due", "order.paid", "case.fee_paid", "case.supplement_requested",
         "case.supplemented", "case.accepted", "case.approved", "case.completed"],
    )  # fmt: skip
    texts = [message["text"] for message in await wait_sent(resident.http, hall.sandbox_url, phone, 6)]
    assert sum("补正" in text or "补" in text for text in texts) >= 1, "what must arrive arrives by text"
    assert all("44020" not in text for text in texts), "no number of a person in a text"


async def _id_of(resident, case):
    return (await resident.get(f"/v1/cases/{case['id']}"))["form"]["values"]["id_number"]
