"""marshmallow schemas of the catalogue files: every field, nothing unknown. References between files are judged in load.py."""

from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalogue.fields import DAY, HM, IDENTITY_LEVELS, KEY, flag, many, number, one, text, texts
from app.catalogue.form_schema import CodeList
from app.catalogue.item_schema import Item


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
    periods = fields.List(fields.List(fields.String(validate=HM), validate=Length(equal=2)), required=True)


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
    key = text(validate=KEY)
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
    source = fields.String(validate=Length(min=1))  # of the rule
    last_day = fields.String(validate=OneOf(("day_before", "anniversary")))  # of a term counted in years; the day before when not said


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
    renew_item = fields.String(validate=KEY)  # alias of the item that gives a new one
    one_per_holder = fields.Boolean(truthy={True}, falsy={False})  # a new one takes the place of the one before
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
    review_on = text(validate=DAY)
    status = text(validate=OneOf(("published", "withdrawn")))


class BundleItem(Schema):
    alias = text()
    optional = flag()


class Bundle(Schema):
    key = text(validate=KEY)
    name = text()
    life_event = text()
    summary = text()
    items = many(BundleItem, validate=Length(min=1))


class InputField(Schema):
    key = text(validate=KEY)
    label = text()
    type = text(validate=OneOf(("text", "plate", "id_number")))
    hint = text(empty=True)
    pattern = fields.String()


class CheckInput(InputField):
    required = flag()


class CheckDate(Schema):
    """A row of the answer that holds a day of which the resident is reminded (app/checks/dates.py)."""

    label = text()
    kind = text(validate=OneOf(("driving_licence", "points_cycle", "inspection", "appointment")))
    name = text()
    named_by = fields.String(validate=Length(min=1))  # the row that tells several of them apart
    months = fields.Integer(strict=True, validate=Range(1, 120))  # after the day in the row
    item = text()


class CheckKind(Schema):
    kind = text(validate=KEY)
    name = text()
    summary = text()
    item = text()
    source = text()
    identity_level = text(validate=OneOf(IDENTITY_LEVELS))
    sends_identity = flag()
    purpose = text()
    inputs = many(CheckInput)
    dates = fields.List(fields.Nested(CheckDate), validate=Length(min=1))


class KeySet(Schema):
    keys = texts(validate=Length(min=1))
    note = text(empty=True)


class BillKind(Schema):
    kind = text(validate=KEY)
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
    from_on = text(validate=DAY)
    until_on = text(validate=DAY, allow_none=True)
    themes = fields.List(fields.String(validate=Length(min=1)), validate=Length(min=1))  # beside those of its item
    divisions = fields.List(fields.String(), validate=Length(min=1))  # for whom it is; everybody when not said


class LeadsTo(Schema):
    phrase = text()
    items = texts(validate=Length(min=1))


# File -> list in it -> (schema, the field by which a row is named in an error).
FILES: dict[str, dict[str, tuple[type[Schema], str]]] = {
    "divisions.json": {"divisions": (Division, "code")},
    "agencies.json": {"agencies": (Agency, "id"), "halls": (Hall, "id")},
    "items.json": {"items": (Item, "alias")},
    "code_lists.json": {"lists": (CodeList, "key")},
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
