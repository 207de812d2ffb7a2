"""What a mini-program may ask its user's permission for, and what the user answered."""

from typing import Any

from marshmallow import Schema, fields, validate

from app.kernel.clock import utc_now
from app.kernel.errors import Conflict, ValidationFailed, error_row
from handlers.base import HallHandler, operation


class NoWechatIdentity(Conflict):
    """The session's resident never signed in through the WeChat mini-program, so nothing can be sent there."""

    code = "notification.no_wechat"


class MessageTemplate(Schema):
    template_id = fields.Str()
    title = fields.Str()
    long_term = fields.Bool(metadata={"description": "never ask for one-time and long-term templates in one call"})
    events = fields.List(fields.Str())


class SubscriptionChoices(Schema):
    template_ids = fields.Dict(
        keys=fields.Str(validate=validate.Length(1, 64)),
        values=fields.Str(validate=validate.OneOf(("accept", "reject", "ban", "filter"))),
        required=True,
        validate=validate.Length(1, 20),
        metadata={"description": "exactly what wx.requestSubscribeMessage gave, without errMsg"},
    )


class TemplateGrant(Schema):
    template_id = fields.Str()
    left = fields.Int(metadata={"description": "messages still allowed; 1 for a long-term template while accepted"})
    long_term = fields.Bool()


class TemplateGrants(Schema):
    grants = fields.List(fields.Nested(TemplateGrant))


class WechatTemplates(HallHandler):
    @operation("Templates to ask grants for, most useful first (at most three per tap)", answers={200: MessageTemplate(many=True)})  # type: ignore[dict-item]
    async def get(self) -> None:
        await self.answer([_view(template) for template in self.hall.push.templates.wechat])


class AlipayTemplates(HallHandler):
    @operation("Templates to ask subscriptions for, most useful first", answers={200: MessageTemplate(many=True)})  # type: ignore[dict-item]
    async def get(self) -> None:
        await self.answer([_view(template) for template in self.hall.push.templates.alipay])


class WechatSubscriptions(HallHandler):
    @operation("What the user chose in the pop-up", body=SubscriptionChoices, answers={200: TemplateGrants}, auth="resident")
    async def post(self) -> None:
        choices: dict[str, str] = self.body["template_ids"]
        ledger = self.hall.push.grants
        unknown = [template_id for template_id in choices if template_id not in ledger.templates]
        if unknown:
            raise ValidationFailed(
                [error_row(f"/template_ids/{one}", "unknown", "没有这个订阅消息模板") for one in unknown]
            )
        openid = await self.hall.push.wechat_openid(self.resident.resident_id)
        if not openid:
            raise NoWechatIdentity("请先在微信小程序里登录。", en="Sign in through the WeChat mini-program first.")
        for template_id, choice in choices.items():
            await ledger.choose(openid, template_id, choice, source="client", now=utc_now())
        await self.answer({"grants": await ledger.left(openid)})


def _view(template: Any) -> dict[str, Any]:
    return {
        "template_id": template.template_id,
        "title": template.title,
        "long_term": template.long_term,
        "events": list(template.events),
    }


routes = [
    (r"/mp/v1/wechat/templates", WechatTemplates),
    (r"/mp/v1/alipay/templates", AlipayTemplates),
    (r"/mp/v1/wechat/subscriptions", WechatSubscriptions),
]
