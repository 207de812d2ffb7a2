"""The web hook of an agency over the API, from setting it to an event of the outbox that arrives there."""

import asyncio
from typing import Any

from app.kernel.events import new_event
from app.storage import outbox
from tests.handlers.pages_world import PASSWORD, World, world  # noqa: F401


async def _call(world: World, http: Any, method: str, path: str, token: str = "", json: Any = None) -> tuple[int, Any]:  # noqa: F811
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with http.request(method, world.url + path, json=json, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status != 204 else None


async def _token(world: World, http: Any, account: str) -> str:  # noqa: F811
    status, answer = await _call(world, http, "POST", "/staff/v1/login", json={"account": account, "password": PASSWORD})
    assert status == 200, answer
    return str(answer["access_token"])


async def test_a_head_sets_the_hook_and_an_event_arrives(world: World):  # noqa: F811
    http = world.browser().http
    await world.hall.redis.delete("limit:hook_pings:{sg-gaj}")  # another test of this run may have tried its agency's hook
    head, clerk, other = [await _token(world, http, one) for one in ("head.sg-gaj", "clerk.sg-gaj", "head.sg-jj")]
    wanted = {"url": f"{world.sandbox_url}/hooks/events", "algorithm": "hmac-sha256"}
    assert (await _call(world, http, "GET", "/staff/v1/hook", head))[0] == 404
    status, refused = await _call(world, http, "PUT", "/staff/v1/hook", clerk, wanted)
    assert (status, refused["code"]) == (403, "hook.head_needed")
    status, refused = await _call(world, http, "PUT", "/staff/v1/hook", head, {"url": "ftp://10.0.0.1/x", "events": ["case.flew"]})
    assert status == 422 and {row["pointer"] for row in refused["errors"]} == {"/url", "/events/0"}

    status, hook = await _call(world, http, "PUT", "/staff/v1/hook", head, wanted)
    assert status == 201 and len(hook["secret"]) >= 40
    status, again = await _call(world, http, "PUT", "/staff/v1/hook", head, wanted)
    assert status == 200 and "secret" not in again
    status, ping = await _call(world, http, "POST", "/staff/v1/hook/ping", head)
    assert status == 200 and ping["status"] == 401, "the other side does not know the secret yet"
    async with http.post(f"{world.sandbox_url}/_sim/hooks", json={"app": hook["app"], "secret": hook["secret"], "algorithm": "hmac-sha256"}) as told:
        assert told.status == 200
    assert (await _call(world, http, "POST", "/staff/v1/hook/ping", head))[1]["delivered"] is True

    data = {"agency_id": "sg-gaj", "number": "N1", "item_code": "id_card_lost", "item_name": "补领", "agency_name": "公安局", "state": "accepted", "version": 3}
    event = new_event("case.accepted", subject=("case", "case_hook"), owner_id="res_hook", data=data)
    await world.hall.database.transaction(lambda session: outbox.append(world.hall.database, session, [event]))
    world.hall.relay.wake()
    for _ in range(100):
        if await world.hall.database["hook_deliveries"].count_documents({"event_id": event.id}):
            break
        await asyncio.sleep(0.05)
    assert await world.hall.hook_deliveries.deliver_due() == 1

    status, page = await _call(world, http, "GET", "/staff/v1/hook/deliveries?state=delivered", clerk)
    assert status == 200 and [(row["event_id"], row["case_number"], row["tries"]) for row in page["items"]] == [(event.id, "N1", 1)]
    assert (await _call(world, http, "GET", "/staff/v1/hook/deliveries", other))[1]["items"] == []
    delivery_id = page["items"][0]["id"]
    status, refused = await _call(world, http, "POST", f"/staff/v1/hook/deliveries/{delivery_id}/repeat", other)
    assert (status, refused["code"]) == (404, "hook.delivery_not_found")
    assert (await _call(world, http, "POST", f"/staff/v1/hook/deliveries/{delivery_id}/repeat", head))[1]["state"] == "waiting"
    assert (await _call(world, http, "POST", "/staff/v1/hook/pause", head))[1]["paused_why"] == "by_head"
    assert await world.hall.hook_deliveries.deliver_due() == 0
    assert (await _call(world, http, "POST", "/staff/v1/hook/resume", head))[1]["paused_at"] is None
    assert len((await _call(world, http, "POST", "/staff/v1/hook/secret", head))[1]["secret"]) >= 40
    assert (await _call(world, http, "DELETE", "/staff/v1/hook", head))[0] == 204
    assert (await _call(world, http, "GET", "/staff/v1/hook/deliveries", clerk))[1]["items"][0]["state"] == "dropped"
    for _ in range(6):
        status, limited = await _call(world, http, "POST", "/staff/v1/hook/ping", head)
    assert (status, limited["code"]) == (429, "rate.limited")
