"""The marshmallow schema of an item's form: fields, typed columns, computed fields, rules across fields, and the code lists they name."""

from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range, Regexp

from app.catalogue import rules
from app.catalogue.fields import KEY, condition, flag, many, text

FIELD_TYPES = (
    "address bank_card boolean date datetime division id_number list mobile money month multiselect number photo plate "
    "select table text textarea uscc vin"
).split()
# `document_number`: judged truly when it has the shape of a citizen number or a credit code; every other document passes.
COLUMN_TYPES = "text date month number money id_number mobile uscc document_number".split()
# `error` holds the application up; `advice` is told to the resident and to the clerk, who decides.
LEVELS = ("error", "advice")


class Option(Schema):
    value = text()
    label = text()


class CodeList(Schema):
    """A list of values that several fields offer (code_lists.json)."""

    key = text(validate=KEY)
    name = text()
    source = text()
    options = many(Option, validate=Length(min=2))


def _number_or_today(value: Any) -> None:
    if value != "today" and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValidationError("want a whole number or today")


class Column(Schema):
    type = text(validate=OneOf(COLUMN_TYPES))
    optional = fields.Boolean(truthy={True}, falsy={False})
    level = fields.String(validate=OneOf(LEVELS))


class FormField(Schema):
    key = text(validate=KEY)
    label = text()
    type = text(validate=OneOf(FIELD_TYPES))
    required = flag()
    personal = flag()
    sensitive = fields.Boolean(truthy={True}, falsy={False})
    hint = fields.String()
    prefill = fields.String(validate=Regexp(r"^(profile|org|case|share|licence)[.:]"))
    pattern = fields.String()
    format = fields.String(validate=OneOf(("document_number",)))
    max_length = fields.Integer(strict=True, validate=Range(1, 2000))
    max_items = fields.Integer(strict=True, validate=Range(1, 100))
    min = fields.Integer(strict=True)
    max = fields.Raw(validate=_number_or_today)
    options = fields.List(fields.Nested(Option), validate=Length(min=1))
    codes = fields.String(validate=KEY)
    columns = fields.List(fields.String(validate=Length(min=1)), validate=Length(min=1))
    column_types = fields.Dict(keys=fields.String(), values=fields.Nested(Column))
    computed = fields.Raw()
    appointment = fields.Boolean(truthy={True}, falsy={False})  # the day on which the applicant is expected somewhere
    when = condition()
    show_when = condition()

    @validates_schema
    def _parts_of_its_type(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data["type"] in ("select", "multiselect") and ("options" in data) == ("codes" in data):
            raise ValidationError("a choice needs either options or the name of a code list", "options")
        if data.get("appointment") and data["type"] != "date":
            raise ValidationError("an appointment is a date", "appointment")
        if data["type"] == "table" and "columns" not in data:
            raise ValidationError("a table needs columns", "columns")
        for column in data.get("column_types", {}):
            if column not in data.get("columns", ()):
                raise ValidationError(f"there is no column {column!r}", "column_types")


class Rule(Schema):
    """What must hold between fields. Applies under `when` (situations) and `show_when` (fields); `fields` says where it is told."""

    key = text(validate=KEY)
    check = fields.Raw(required=True)
    message = text()
    level = text(validate=OneOf(LEVELS))
    when = condition()
    show_when = condition()
    fields_ = fields.List(
        fields.String(validate=KEY), validate=Length(min=1), data_key="fields", attribute="fields", required=True
    )


def form_mistakes(item: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not fit inside an item's form: names that lead nowhere, and rules that compare what cannot be compared."""
    form = {field["key"]: field for field in item["form"]}
    for field in item["form"]:
        for key in field.get("show_when") or {}:
            if key not in form:
                yield f"form.{field['key']}.show_when.{key}: the form has no such field"
        if "computed" in field:
            yield from (f"form.{field['key']}.computed: {line}" for line in rules.operand_mistakes(field["computed"], form))
    keys = [rule["key"] for rule in item.get("rules", ())]
    yield from (f"rules.{key}: used twice" for key in sorted({key for key in keys if keys.count(key) > 1}))
    for rule in item.get("rules", ()):
        where = f"rules.{rule['key']}"
        yield from (f"{where}.check: {line}" for line in rules.check_mistakes(rule["check"], form))
        for key in [*rule["fields"], *(rule.get("show_when") or {})]:
            if key not in form:
                yield f"{where}: the form has no field {key!r}"


def with_code_lists(items: list[Mapping[str, Any]], lists: Mapping[str, Any], mistakes: list[str]) -> list[dict[str, Any]]:
    """Return the items with the options of the code lists their fields name, so that what is published needs no second file."""

    def expanded(item: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
        if "codes" not in field:
            return field
        if field["codes"] not in lists:
            mistakes.append(f"items.json: {item['alias']}: form.{field['key']}.codes: {field['codes']!r} is not known")
            return field
        return {**field, "options": lists[field["codes"]]["options"]}

    return [{**item, "form": [expanded(item, field) for field in item["form"]]} for item in items]
