"""Live the whole story against the running hall and print each step with its time."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable
from typing import Any

import aiohttp
import click
from rich.console import Console

from commands.environment import load_settings
from commands.servers import CannotStart
from commands.story import Person, Refused, cashier, id_number
from config.settings import Settings

console = Console(highlight=False, soft_wrap=True)


@click.command()
def command() -> None:
    """Live the whole story against the running hall and print each step."""
    settings = load_settings()
    if settings.is_production:
        raise CannotStart("demo needs the stand-ins: HALL_ENV must be dev or test")
    asyncio.run(tell(settings))


async def tell(settings: Settings) -> None:
    """身份证丢了: from sign-in to the finished case."""
    base = f"http://127.0.0.1:{settings.port}"
    began = time.perf_counter()

    async def step(words: str, work: Awaitable[Any]) -> Any:
        at = time.perf_counter()
        result = await work
        console.print(f"[green]✓[/green] {words}  [dim]{(time.perf_counter() - at) * 1000:.0f} ms[/dim]")
        return result

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        anyone = Person(http, base)
        try:
            await anyone.get("/healthz")
        except (aiohttp.ClientError, OSError, Refused) as error:
            raise CannotStart(f"no hall answers at {base}: start it with ./hall dev in another terminal") from error
        try:
            await _story(settings, http, anyone, step)
        except Refused as error:
            raise CannotStart(f"the story stopped: {error}") from error
    console.print(f"[bold green]故事讲完了 (done)[/bold green]  {time.perf_counter() - began:.1f} s")


async def _story(settings: Settings, http: aiohttp.ClientSession, anyone: Person, step: Any) -> None:
    seed = secrets.randbelow(10_000_000)
    name = f"demo{seed}"
    found = await step("查：搜索“身份证丢了怎么办”", anyone.get("/v1/search?q=身份证丢了怎么办"))
    code = found["items"][0]["code"]
    console.print(f"    → {found['items'][0]['name']}  {code}")
    resident = await step("用微信登录", anyone.sign_in_wechat(name))
    await step("绑定手机号", resident.post("/mp/v1/wechat/phone", {"code": f"sim-{name}"}))
    await step("实名并刷脸 (L4)", resident.prove("张示例", id_number(seed)))
    case = await step("办：开始申请，表单已预填", resident.open_case(code, {"age": "adult"}))
    console.print(f"    → 办件编号 {case['number']}")
    await step(
        "填写表单",
        resident.fill(
            case,
            {"photo_code": "SG20261100001", "lost_date": "2026-11-01", "use_old_photo": False, "delivery": "self"},
        ),
    )
    await step("上传户口簿照片", resident.upload_missing(case))
    await step("提交", resident.post(f"/v1/cases/{case['id']}/submit", key=name))
    order = await step("缴：下单", resident.order("case", case["id"]))
    console.print(f"    → {order['amount_fen'] / 100:.2f} 元")
    attempt = await step("调起微信支付", resident.pay(order["id"], "wechatpay"))
    await step(
        "在收银台付款", cashier(http, settings.sandbox_url, "wechatpay", attempt["attempt_id"], "success")
    )
    await step(
        "到账，办件自动继续",
        resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "submitted"),
    )
    clerk = await step(
        "经办员登录工作台", anyone.sign_in_staff("clerk.sg-gaj", settings.demo_password or os.environ["HALL_DEMO_PASSWORD"])
    )
    accepted = await step("受理", clerk.act(case["id"], "accept"))
    console.print(f"    → 最迟 {accepted['deadline_on']} 作出决定")
    await step("决定：准予", clerk.act(case["id"], "decide", outcome="approved", opinion="材料齐全，符合条件"))
    await step("送达", clerk.act(case["id"], "deliver", method="self"))
    done = await step(
        "办结", resident.until(f"/v1/cases/{case['id']}", lambda answer: answer["state"] == "completed")
    )
    await step("评价：非常满意", resident.post(f"/v1/cases/{done['id']}/evaluation", {"level": 1, "tags": [], "text": ""}))
    await asyncio.sleep(1)
    inbox = await step("看消息", resident.get("/v1/notifications?limit=50"))
    for message in reversed(inbox["items"]):
        console.print(f"    [dim]{message['at'][11:19]}[/dim] {message['title']}")
