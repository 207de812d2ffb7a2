"""Records, as their `__init__` and dataclasses.replace make them."""

import dataclasses

import pytest

from app.kernel.records import made, replace


@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    count: int = 0
    tags: tuple[str, ...] = ()
    notes: dict[str, str] = dataclasses.field(default_factory=dict)


def test_a_copy_is_what_dataclasses_would_make() -> None:
    record = Record("first", tags=("a",))
    copy = replace(record, count=2, name="second")
    assert copy == dataclasses.replace(record, count=2, name="second") == Record("second", 2, ("a",), {})
    assert record == Record("first", 0, ("a",))
    assert copy.tags is record.tags


def test_a_copy_is_frozen_and_takes_no_other_field() -> None:
    copy = replace(Record("first"), count=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.count = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="no field cuont"):
        replace(copy, cuont=2)


def test_a_record_is_what_its_init_would_make() -> None:
    assert made(Record, {"name": "first", "tags": ("a",)}) == Record("first", tags=("a",))
    one, other = made(Record, {"name": "first"}), made(Record, {"name": "first"})
    assert one.notes == {} and one.notes is not other.notes
    with pytest.raises(TypeError, match="Record: name"):
        made(Record, {"count": 1})
    with pytest.raises(TypeError, match="Record: nmae"):
        made(Record, {"name": "first", "nmae": "second"})
