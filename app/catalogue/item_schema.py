"""The marshmallow schema of a service item: every field, nothing unknown."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalogue.fields import DAY, IDENTITY_LEVELS, KEY, UNITS, condition, flag, many, number, one, text, texts
from app.catalogue.form_schema import FormField, Option, Rule


class CodeAndName(Schema):
    code = text()
    name = text()


class Limit(Schema):
    days = number()
    unit = text(validate=OneOf(UNITS))


class LegalLimit(Schema):
    days = number(allow_none=True)
    unit = text(validate=OneOf(UNITS), allow_none=True)
    note = text(empty=True)

    @validates_schema
    def _both_or_none(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if (data["days"] is None) != (data["unit"] is None):
            raise ValidationError("days and unit are null together", "unit")


class Channels(Schema):
    online = flag()
    hall = flag()
    terminal = flag()
    express = flag()
    appointment = flag()


class Situation(Schema):
    key = text(validate=KEY)
    question = text()
    type = text(validate=OneOf(("single", "multi")))
    options = many(Option, validate=Length(min=2))


class Material(Schema):
    key = text(validate=KEY)
    name = text()
    required = text(validate=OneOf(("required", "conditional", "optional")))
    when = condition(required=True, allow_none=True)
    form = text(validate=OneOf(("electronic", "paper", "both", "onsite")))
    original = number(high=20)
    copies = number(high=20)
    source = text(validate=OneOf(("applicant", "government", "platform", "system")))
    licence = text(allow_none=True)
    can_defer = flag()
    by_promise = fields.Boolean(truthy={True}, falsy={False})
    reuse_days = fields.Integer(strict=True, validate=Range(0, 3650))  # how long one accepted once is offered again; 180 when not said
    notes = text(empty=True)


class Fee(Schema):
    key = text(validate=KEY)
    name = text()
    amount_fen = number(allow_none=True)
    unit = text(empty=True)
    basis = text(empty=True)
    payer = text(validate=OneOf(("applicant",)))
    when_paid = text(validate=OneOf(("on_application", "on_acceptance", "before_issue", "offline")))
    when = condition(required=True, allow_none=True)
    certainty = text(validate=OneOf(("known", "likely", "formula", "market")))
    notes = text(empty=True)

    @validates_schema
    def _unknown_amounts(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data["amount_fen"] is None and data["certainty"] not in ("formula", "market"):
            raise ValidationError("an unknown amount is formula or market", "amount_fen")


class JointReview(Schema):
    agency = text()
    task = text()
    days = number()
    mode = text(validate=OneOf(("parallel", "serial")))


class Step(Schema):
    stage = text(validate=KEY)
    name = text()
    actor = text(validate=OneOf(("applicant", "agency")))
    days = number()
    note = text(empty=True)
    clock = fields.String(validate=OneOf(("running", "stopped")))


class AutoCheck(Schema):
    """One comparison: a field with the verified identity, a material met by a valid licence, the age, or the answer to a question."""

    kind = text(validate=OneOf(("identity", "licence", "age", "answer")))
    field = fields.String(validate=KEY)
    equals = fields.String(validate=OneOf(("name", "id_number")))
    material = fields.String(validate=KEY)
    least = fields.Integer(strict=True)
    most = fields.Integer(strict=True)
    key = fields.String(validate=KEY)
    among = fields.List(fields.String())

    @validates_schema
    def _says_enough(self, data: dict[str, Any], **_kwargs: Any) -> None:
        needs = {"identity": ("field", "equals"), "licence": ("material",), "age": ("least", "most"), "answer": ("key", "among")}
        for name in needs.get(data.get("kind", ""), ()):
            if name not in data:
                raise ValidationError("missing for this kind of check", name)


class AutoRules(Schema):
    """What decides without a person (秒批): a named, counted set of comparisons that must all hold."""

    name = text()
    version = number(1)
    checks = many(AutoCheck, validate=Length(min=1))
    sample_percent = fields.Integer(strict=True, validate=Range(0, 100))


class SpecialProcedure(Schema):
    name = text()
    max_days = number(allow_none=True)
    unit = text(validate=OneOf(UNITS))
    reason = text(empty=True)
    clock = text(validate=OneOf(("stopped",)))


class ResultTerm(Schema):
    """How long the licence of this item is valid, where its kind's own rule (licences.json) does not fit: the first row that applies."""

    when = condition()
    months = fields.Integer(strict=True, validate=Range(1, 1200))
    as_before = fields.Boolean(truthy={True}, falsy={False})  # a replacement: ends when the one before would have
    beside = fields.Boolean(truthy={True}, falsy={False})  # an endorsement, say: the licence before goes on
    name = fields.String(validate=Length(min=1))  # of such an endorsement

    @validates_schema
    def _says_how_long(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if ("months" in data) == bool(data.get("as_before")):
            raise ValidationError("want either months or as_before")


class Renewal(Schema):
    """延续: under which answers an application of this item renews a licence, and how long before its end it must come (行政许可法 art. 50)."""

    licence = text()
    when = condition()
    before = one(Limit)  # before the last valid day
    law = text()


class Period(Schema):
    """A time in which the item takes applications, told to those who follow it when it opens; both days included."""

    key = text(validate=KEY)
    name = text()
    from_on = text(validate=DAY)
    until_on = text(validate=DAY)

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data["from_on"] > data["until_on"]:
            raise ValidationError("ends before it begins", "until_on")


class Result(Schema):
    name = text()
    licence = text(allow_none=True)
    form = text(validate=OneOf(("electronic", "paper", "both")))
    validity = text(empty=True)
    terms = fields.List(fields.Nested(ResultTerm), validate=Length(min=1))
    first_inspection_years = fields.Integer(strict=True, validate=Range(1, 10))  # of a vehicle registered with it
    delivery = fields.List(fields.String(validate=OneOf(("electronic", "self", "express"))), required=True)


class LegalBasis(Schema):
    law = text()
    articles = texts()


class Question(Schema):
    q = text()
    a = text()


class Item(Schema):
    """A service item (事项), in the sense of GB/T 39554.2: everything a resident must know, and what the hall must do."""

    code = text(validate=Regexp(r"^[0-9A-Z]{18}[1-7][0-9A-Z]{12}$", error="want 31 characters"))
    base_code = text(validate=Length(equal=12))
    alias = text(validate=KEY)
    name = text()
    short_name = text()
    summary = text()
    service_kind = text(validate=OneOf(("check", "pay", "handle")))
    item_type = one(CodeAndName)
    agency = text()
    co_agencies = texts()
    level = one(CodeAndName)
    accept_levels = fields.List(
        fields.String(validate=OneOf(("city", "county", "town", "village"))), required=True, validate=Length(min=1)
    )
    by_counties = fields.List(fields.String())  # the counties whose own body of the line handles it; elsewhere `agency` does
    hot_area = text()
    themes = texts(validate=Length(min=1))
    life_events = texts()
    audience = fields.List(fields.String(validate=OneOf(("natural", "legal"))), required=True, validate=Length(min=1))
    case_kind = one(CodeAndName)
    legal_limit = one(LegalLimit)
    promised_limit = one(Limit)
    # What the item's own law says of the steps of its cases; what is left out follows the general rule (app/cases/procedure.py).
    notice_limit = fields.Nested(Limit)  # to accept, refuse or name everything that is missing; 0 days: on the spot
    supplement_limit = fields.Nested(Limit)  # for the applicant to complete
    supplement_expiry = fields.String(validate=OneOf(("close", "keep")))
    extension_limit = fields.Nested(Limit)
    deferral_until = fields.String(validate=OneOf(("decision", "delivery")))
    refusal_rule = fields.String(validate=OneOf(("all_of", "lead_decides")))  # what one department's refusal does
    hearing = fields.String(validate=OneOf(("on_application", "required")))  # 行政许可法 art. 46, 47
    four_eyes = fields.List(fields.String(validate=OneOf(("approved", "denied"))))  # outcomes that need a second person
    auto_rules = fields.Nested(AutoRules)
    renewal = fields.Nested(Renewal)
    periods = fields.List(fields.Nested(Period), validate=Length(min=1))
    visits = number(high=9)
    online_depth = number(1, 4)
    cross_region = text(validate=OneOf(("nation", "province", "city", "county")))
    auto_decide = flag()
    commitment = flag()
    tolerate_missing = flag()
    channels = one(Channels)
    conditions = texts()
    situations = many(Situation)
    materials = many(Material)
    fees = many(Fee)
    form = many(FormField)
    rules = fields.List(fields.Nested(Rule))
    joint_review = many(JointReview)
    identity_level = text(validate=OneOf(IDENTITY_LEVELS))
    hot_rank = number(1, allow_none=True)
    check_kinds = texts()
    pay_kinds = texts()
    steps = many(Step)
    special_procedures = many(SpecialProcedure)
    result = one(Result)
    legal_basis = many(LegalBasis)
    faq = many(Question)
    search_words = texts()
    consult = text()
    complaint = text()
    status = text(validate=OneOf(("published", "withdrawn")))
    version = number(1)
    notes = text(empty=True)

    @validates_schema
    def _what_can_be_renewed(self, data: dict[str, Any], **_kwargs: Any) -> None:
        # Silence renews a licence in the sense of the law, and nothing else.
        if "renewal" in data and data["item_type"]["code"] != "01":
            raise ValidationError("only an administrative licence (01) is renewed", "renewal")

    @validates_schema
    def _what_rules_can_decide(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if "auto_rules" not in data:
            return
        if not data.get("auto_decide"):
            raise ValidationError("rules decide only what auto_decide allows", "auto_rules")
        # Money and other departments take time, in which what the rules looked at can change.
        if data.get("fees") or data.get("joint_review") or data.get("co_agencies"):
            raise ValidationError("rules decide at once: no fee, no other department", "auto_rules")
