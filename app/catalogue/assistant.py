"""The assistant: honest and simple. It answers from the knowledge base or names items, says that it is a machine, and offers a person."""

from collections.abc import Mapping
from typing import Any

from app.catalogue.snapshot import Snapshot
from app.kernel.ids import new_id

_PERSON = ("人工", "真人", "投诉", "找人", "客服")
_SURE = 20.0  # score from which one knowledge entry is quoted as the answer
_SHOWN = 5

HANDOVER = {
    "reason": "asked_or_unsure",
    "text": "需要人工帮助，请拨打政务服务热线12345，或到就近的政务服务大厅。",
    "phone": "12345",
}


def answer_question(snapshot: Snapshot, text: str, conversation_id: str | None) -> dict[str, Any]:
    """Answer one question; nothing of it is stored.

    `options` are the next things to tap; `handover` is None while the machine is of use.
    """
    found = snapshot.search(text, limit=_SHOWN)
    items, knowledge = found["items"], found["knowledge"]
    if asks_for_person(text):
        reply, handover = "好的，请找工作人员。" + HANDOVER["text"], HANDOVER
    elif knowledge and knowledge[0]["score"] >= max(_SURE, (items[0]["score"] if items else 0) * 0.8):
        entry = knowledge[0]
        reply = f"{entry['answer']}（智能回答，来源：{entry['owner']['name']}知识库“{entry['question']}”）"
        handover = None
    elif items:
        reply = f"您是要办“{items[0]['short_name']}”吗？点开可以看条件、材料和费用，也可以直接办理。（智能回答）"
        handover = None
    else:
        reply, handover = "没有找到相关的事项。请换个说法，例如“身份证丢了”。" + HANDOVER["text"], HANDOVER
    return {
        "conversation_id": conversation_id or new_id("conv"),
        "reply": reply,
        "options": [_option(row) for row in items] if not asks_for_person(text) else [],
        "items": [{key: value for key, value in row.items() if key not in ("highlight", "score", "type")} for row in items],
        "handover": handover,
    }


def asks_for_person(text: str) -> bool:
    """Say whether somebody wants to talk to a human."""
    return any(word in text for word in _PERSON)


def _option(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": row["short_name"], "item": row["code"]}
