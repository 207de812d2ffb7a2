"""marshmallow schemas of the catalogue files: every field, nothing unknown. References between files are judged in load.py."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

FIELD_TYPES = (
    "address bank_card boolean date datetime division id_number list mobile money month multiselect number photo plate "
    "select table text textarea uscc vin"
).split()
IDENTITY_LEVELS = ("L1", "L2", "L3", "L4")
UNITS = ("working", "calendar")

_KEY = Regexp(r"^[a-z][a-z0-9_]*$", error="want small letters, digits and _")
_DAY = Regexp(r"^\d{4}-\d{2}-\d{2}$", error="want YYYY-MM-DD")
_HM = Regexp(r"^([01]\d|2[0-3]):[0-5]\d$", error="want HH:MM")


def text(*, empty: bool = False, **kwargs: Any) -> fields.String:
    """A required text; not empty unless said."""
    kwargs.setdefault("validate", None if empty else Length(min=1))
    return fields.String(required=True, **kwargs)


def number(low: int = 0, high: int | None = None, **kwargs: Any) -> fields.Integer:
    """A required whole number within bounds; no text, no float."""
    return fields.Integer(required=True, strict=True, validate=Range(low, high), **kwargs)


def flag() -> fields.Boolean:
    return fields.Boolean(required=True, truthy={True}, falsy={False})


def texts(**kwargs: Any) -> fields.List:
    return fields.List(fields.String(validate=Length(min=1)), required=True, **kwargs)


def condition(**kwargs: Any) -> fields.Dict:
    """`when`: situation key -> values, of which one suffices."""
    values = fields.List(fields.String(validate=Length(min=1)), validate=Length(min=1))
    return fields.Dict(keys=fields.String(validate=_KEY), values=values, **kwargs)


def many(schema: type[Schema], **kwargs: Any) -> fields.List:
    return fields.List(fields.Nested(schema), required=True, **kwargs)


def one(schema: type[Schema]) -> fields.Nested:
    return fields.Nested(schema, required=True)


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


class Option(Schema):
    value = text()
    label = text()


class Situation(Schema):
    key = text(validate=_KEY)
    question = text()
    type = text(validate=OneOf(("single", "multi")))
    options = many(Option, validate=Length(min=2))


class Material(Schema):
    key = text(validate=_KEY)
    name = text()
    required = text(validate=OneOf(("required", "conditional", "optional")))
    when = condition(required=True, allow_none=True)
    form = text(validate=OneOf(("electronic", "paper", "both", "onsite")))
    original = number(high=20)
    copies = number(high=20)
    source = text(validate=OneOf(("applicant", "government", "platform", "system")))
    licence = text(allow_none=True)
    can_defer = flag()
    notes = text(empty=True)


class Fee(Schema):
    key = text(validate=_KEY)
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


def _number_or_today(value: Any) -> None:
    if value != "today" and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValidationError("want a whole number or today")


class FormField(Schema):
    key = text(validate=_KEY)
    label = text()
    type = text(validate=OneOf(FIELD_TYPES))
    required = flag()
    personal = flag()
    sensitive = fields.Boolean(truthy={True}, falsy={False})
    hint = fields.String()
    prefill = fields.String(validate=Regexp(r"^(profile|org|case|share|licence)[.:]"))
    pattern = fields.String()
    max_length = fields.Integer(strict=True, validate=Range(1, 2000))
    max_items = fields.Integer(strict=True, validate=Range(1, 100))
    min = fields.Integer(strict=True)
    max = fields.Raw(validate=_number_or_today)
    options = fields.List(fields.Nested(Option), validate=Length(min=1))
    columns = fields.List(fields.String(validate=Length(min=1)), validate=Length(min=1))
    when = condition()
    show_when = condition()

    @validates_schema
    def _parts_of_its_type(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data["type"] in ("select", "multiselect") and "options" not in data:
            raise ValidationError("a choice needs options", "options")
        if data["type"] == "table" and "columns" not in data:
            raise ValidationError("a table needs columns", "columns")


class JointReview(Schema):
    agency = text()
    task = text()
    days = number()
    mode = text(validate=OneOf(("parallel", "serial")))


class Step(Schema):
    stage = text(validate=_KEY)
    name = text()
    actor = text(validate=OneOf(("applicant", "agency")))
    days = number()
    note = text(empty=True)
    clock = fields.String(validate=OneOf(("running", "stopped")))


class SpecialProcedure(Schema):
    name = text()
    max_days = number(allow_none=True)
    unit = text(validate=OneOf(UNITS))
    reason = text(empty=True)
    clock = text(validate=OneOf(("stopped",)))


class Result(Schema):
    name = text()
    licence = text(allow_none=True)
    form = text(validate=OneOf(("electronic", "paper", "both")))
    validity = text(empty=True)
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
    alias = text(validate=_KEY)
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
    hot_area = text()
    themes = texts(validate=Length(min=1))
    life_events = texts()
    audience = fields.List(fields.String(validate=OneOf(("natural", "legal"))), required=True, validate=Length(min=1))
    case_kind = one(CodeAndName)
    legal_limit = one(LegalLimit)
    promised_limit = one(Limit)
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


class Division(Schema):
    code = text(validate=Regexp(r"^\d{6}(\d{3})?$"))
    name = text()
    level = text(validate=OneOf(("city", "county", "town")))
    level_code = text(validate=OneOf(("3", "4", "5")))
    parent = text(validate=Regexp(r"^\d{6}$"))
    kind = fields.String()
    statistical_only = fields.Boolean(truthy={True}, falsy={False})
    plate_prefix = fields.String()
    area_code = fields.String()
    post_code = fields.String()


class Agency(Schema):
    id = text(validate=Regexp(r"^[a-z][A-Za-z0-9-]*$"))
    name = text()
    short_name = text()
    kind = text(validate=OneOf(("department", "institution", "division", "central", "mass_organisation", "enterprise")))
    uscc = text(validate=Length(equal=18))
    uscc_is_sample = flag()
    national_dept_code = text(allow_none=True)
    division = text()
    level = text()
    hotline = text()
    parent = text(allow_none=True)
    central_managed = flag()
    remark = text(empty=True)


class OpenHours(Schema):
    days = fields.List(fields.Integer(strict=True, validate=Range(1, 7)), required=True)
    periods = fields.List(fields.List(fields.String(validate=_HM), validate=Length(equal=2)), required=True)


class Window(Schema):
    no = text()
    name = text()
    agencies = texts()
    slot_minutes = number(5, 240)
    capacity_per_slot = number(1, 100)


class Hall(Schema):
    id = text()
    name = text()
    kind = text(validate=OneOf(("comprehensive", "special", "town", "village")))
    division = text()
    level = text()
    parent = text(allow_none=True)
    address = text(allow_none=True)
    open_hours = many(OpenHours)
    open_hours_is_sample = flag()
    windows = many(Window)
    remark = text(empty=True)


class Mask(Schema):
    keep_start = number()
    keep_end = number()


class LicenceField(Schema):
    key = text(validate=_KEY)
    label = text()
    type = text()
    mask = fields.Nested(Mask)
    nullable = fields.Boolean(truthy={True}, falsy={False})
    live = fields.Boolean(truthy={True}, falsy={False})


class AgeRule(Schema):
    max_age = number(allow_none=True)
    years = number(allow_none=True)


class Validity(Schema):
    kind = text()
    text = text(empty=True)
    rules = fields.List(fields.Nested(AgeRule))
    years = fields.Raw()
    months = fields.Integer(strict=True)
    endorse_window_days = fields.Integer(strict=True)
    renew_window_days = fields.Integer(strict=True)


class Licence(Schema):
    code = text(validate=Regexp(r"^LIC-[A-Z0-9]+$"))
    national_type_code = text(allow_none=True)
    name = text()
    category = text()
    issuer = text()
    issuer_level = text()
    holder_kind = text(validate=OneOf(("natural", "legal", "both")))
    holder_code_type = texts()
    number_rule = text(empty=True)
    fields_ = fields.List(fields.Nested(LicenceField), required=True, data_key="fields", attribute="fields")
    validity = one(Validity)
    show_qr = flag()
    allow_bind_by_holder = flag()
    data_extract = flag()
    statuses = texts()
    notes = text(empty=True)


class Knowledge(Schema):
    id = text()
    questions = texts(validate=Length(min=1))
    answer = text()
    items = texts()
    owner = text()
    tags = texts()
    basis = texts()
    review_on = text(validate=_DAY)
    status = text(validate=OneOf(("published", "withdrawn")))


class BundleItem(Schema):
    alias = text()
    optional = flag()


class Bundle(Schema):
    key = text(validate=_KEY)
    name = text()
    life_event = text()
    summary = text()
    items = many(BundleItem, validate=Length(min=1))


class InputField(Schema):
    key = text(validate=_KEY)
    label = text()
    type = text(validate=OneOf(("text", "plate", "id_number")))
    hint = text(empty=True)
    pattern = fields.String()


class CheckInput(InputField):
    required = flag()


class CheckKind(Schema):
    kind = text(validate=_KEY)
    name = text()
    summary = text()
    item = text()
    source = text()
    identity_level = text(validate=OneOf(IDENTITY_LEVELS))
    sends_identity = flag()
    purpose = text()
    inputs = many(CheckInput)


class KeySet(Schema):
    keys = texts(validate=Length(min=1))
    note = text(empty=True)


class BillKind(Schema):
    kind = text(validate=_KEY)
    name = text()
    lookup = many(KeySet, validate=Length(min=1))
    money = text()
    receipt = text()
    late_fee = fields.Dict(required=True, allow_none=True)
    part_payment = flag()
    order = text(validate=OneOf(("due_first", "oldest_first")))
    hard_deadline = flag()
    identity_level = text(validate=OneOf(IDENTITY_LEVELS))
    source = text()
    own_identity_only = flag()


class Notice(Schema):
    id = text()
    title = text()
    body = text()
    item = text(allow_none=True)
    from_on = text(validate=_DAY)
    until_on = text(validate=_DAY, allow_none=True)


class LeadsTo(Schema):
    phrase = text()
    items = texts(validate=Length(min=1))


# File -> list in it -> (schema, the field by which a row is named in an error).
FILES: dict[str, dict[str, tuple[type[Schema], str]]] = {
    "divisions.json": {"divisions": (Division, "code")},
    "agencies.json": {"agencies": (Agency, "id"), "halls": (Hall, "id")},
    "items.json": {"items": (Item, "alias")},
    "licences.json": {"licences": (Licence, "code")},
    "kb.json": {"entries": (Knowledge, "id")},
    "bundles.json": {"bundles": (Bundle, "key")},
    "check_kinds.json": {"kinds": (CheckKind, "kind")},
    "bill_kinds.json": {"kinds": (BillKind, "kind"), "fields": (InputField, "key")},
    "notices.json": {"notices": (Notice, "id")},
}


class Synonyms(Schema):
    """synonyms.json, without its meta."""

    groups = fields.List(fields.List(fields.String(validate=Length(min=1)), validate=Length(min=2)), required=True)
    leads_to = many(LeadsTo)
    stop_words = texts()
    words = texts()
