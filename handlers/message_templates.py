"""What every message looks like on every channel, with sample data (/staff/v1/message-templates): of the agency that runs the hall."""

from marshmallow import Schema, fields, validate

from app.kernel.errors import Forbidden
from handlers.base import HallHandler, operation
from push.preview import FULL, SAMPLES


class NotYours(Forbidden):
    code = "message_template.not_yours"


class PreviewQuery(Schema):
    sample = fields.String(
        load_default=FULL,
        validate=validate.OneOf(SAMPLES),
        metadata={"description": "full: everything there is; least: an event that brings nothing; long: names longer than any field"},
    )


class MessageTemplateRow(Schema):
    event = fields.String(metadata={"example": "case.accepted"})
    kind = fields.String()
    title = fields.String(metadata={"description": "the Chinese title as it is written, with placeholders"})
    channels = fields.List(fields.String(), metadata={"description": "in the order in which they are tried"})
    lane = fields.String()
    urgent = fields.Boolean()
    must_arrive = fields.Boolean()
    remarks = fields.List(fields.String(), metadata={"description": "to be looked at: a channel without a template, a field that is cut"})


class MessageTemplateList(Schema):
    items = fields.List(fields.Nested(MessageTemplateRow))


class PreviewSentence(Schema):
    text = fields.String(metadata={"description": "as it is written"})
    when = fields.String(metadata={"description": "its condition; empty: none"})
    holds = fields.Boolean()
    missing = fields.List(fields.String(), metadata={"description": "what it names and the sample does not bring: then it is left out"})
    said = fields.String(allow_none=True, metadata={"description": "null: left out"})


class PreviewLanguage(Schema):
    sentences = fields.List(fields.Nested(PreviewSentence))
    shown = fields.Dict(metadata={"description": "channel -> what stands there; vendor fields with value, length, limit and is_cut"})


class MessagePreview(Schema):
    event = fields.String()
    kind = fields.String()
    sample = fields.String(validate=validate.OneOf(SAMPLES))
    channels = fields.List(fields.String())
    lane = fields.String()
    urgent = fields.Boolean()
    must_arrive = fields.Boolean()
    phrase = fields.String()
    remarks = fields.List(fields.String())
    languages = fields.Dict(keys=fields.String(), values=fields.Nested(PreviewLanguage))


def require_superior(handler: HallHandler) -> None:
    """Raises NotYours: the texts are of the agency that runs the hall."""
    if not handler.hall.supervision.is_superior(handler.staff):
        raise NotYours("消息模板由大厅管理单位查看。", en="For the agency that runs the hall.")


class MessageTemplates(HallHandler):
    @operation("Every event that people are told of, and what is to be looked at", answers={200: MessageTemplateList}, auth="staff")
    async def get(self) -> None:
        require_superior(self)
        await self.answer({"items": self.hall.preview.overview})


class OneMessageTemplate(HallHandler):
    @operation("One event in every language on every channel, with sample data", query=PreviewQuery, answers={200: MessagePreview}, auth="staff")
    async def get(self, event: str) -> None:
        require_superior(self)
        await self.answer(self.hall.preview.of(event, self.query["sample"]))


routes = [
    (r"/staff/v1/message-templates", MessageTemplates),
    (r"/staff/v1/message-templates/([\w.]{1,60})", OneMessageTemplate),
]
