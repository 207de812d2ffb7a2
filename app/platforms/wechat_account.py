"""What an official account can do beyond a mini-program (template messages, who follows it), and the customer messages of both.

Functions over app.platforms.wechat.WeChat, which holds the app id and shares the access token. Their failures are its own: WeChatRefused
with the errcode, VendorUnknown ("errcode ..." when WeChat answered, and did not do it), VendorUnreachable.

Sources: WeChat official account documents, "模板消息", "获取用户基本信息(UnionID机制)"; mini-program, customerServiceMessage.send.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.platforms.http import VendorUnknown
from app.platforms.wechat import WeChat, WeChatRefused, errcode_of, is_for_later, named_key, not_sent

MOST_AT_ONCE = 100  # openids of one question


@dataclass(frozen=True)
class Follower:
    """One openid of an official account. `unionid` is empty where the account is bound to no open platform account."""

    openid: str
    unionid: str
    follows: bool


async def followers(account: WeChat, openids: Sequence[str]) -> list[Follower]:
    """Return who these openids are, at most MOST_AT_ONCE; what WeChat does not know is left out."""
    body = {"user_list": [{"openid": openid, "lang": "zh_CN"} for openid in openids]}
    answer = _judged(await account.call("/cgi-bin/user/info/batchget", body))
    rows = answer.get("user_info_list")
    if not isinstance(rows, list):
        raise VendorUnknown("微信暂时没有回应，稍后再试。", vendor="wechat", cause="no list")
    return [
        Follower(row["openid"], str(row.get("unionid") or ""), row.get("subscribe") == 1)
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("openid"), str)
    ]


async def list_openids(account: WeChat, after: str) -> tuple[list[str], str]:
    """Return up to 10 000 openids of followers that come after one (empty: from the first), and the last of them: empty when there are no more."""
    answer = _judged(await account.call("/cgi-bin/user/get", None, {"next_openid": after}))
    data, following = answer.get("data"), answer.get("next_openid")
    openids = data.get("openid") if isinstance(data, dict) else []
    if not isinstance(openids, list) or not isinstance(following, str):
        raise VendorUnknown("微信暂时没有回应，稍后再试。", vendor="wechat", cause="no list")
    return [openid for openid in openids if isinstance(openid, str)], following if openids else ""


async def send_template_message(
    account: WeChat,
    openid: str,
    template_id: str,
    data: Mapping[str, str],
    *,
    client_msg_id: str,
    mini_program: str = "",
    page: str = "",
    url: str = "",
) -> str:
    """Send one template message and return WeChat's msgid.

    Args:
        client_msg_id: the same one to the same openid within ten minutes is one message, so this very call may be repeated at once.
        mini_program, page: the app id and the page that a tap opens; `url` where the phone's WeChat is too old for that.
    """
    body: dict[str, Any] = {
        "touser": openid,
        "template_id": template_id,
        "data": {key: {"value": value} for key, value in data.items()},
        "client_msg_id": client_msg_id,
    }
    if url:
        body["url"] = url
    if mini_program and page:
        body["miniprogram"] = {"appid": mini_program, "pagepath": page}
    return str(_judged(await account.call("/cgi-bin/message/template/send", body), data).get("msgid", ""))


async def send_customer_text(app: WeChat, openid: str, text: str) -> None:
    """Answer a person who wrote within the last 48 hours, at most five times until they write again. Nothing recognises a repetition."""
    _judged(await app.call("/cgi-bin/message/custom/send", {"touser": openid, "msgtype": "text", "text": {"content": text}}))


def _judged(answer: dict[str, Any], data: Mapping[str, str] | None = None) -> dict[str, Any]:
    errcode = errcode_of(answer)
    if errcode == 0:
        return answer
    if is_for_later(errcode):
        raise not_sent(errcode)
    field = named_key(str(answer.get("errmsg", "")), data) if data else ""
    raise WeChatRefused(errcode, "rejected", field)
