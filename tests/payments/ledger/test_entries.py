"""Entries balance, and blocks cover everything in them: as pure rules."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.ledger.entries import Entry, EntryLine, Unbalanced, added, entry_hash, entry_lines, hash_of_entries, pairs_of
from payments.ledger.store import next_block

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)


def entry(fact="settled:pay_1", fen=4000, **changes):
    return Entry(fact, NOW, entry_lines(("provider:wechatpay", fen), ("agency:sg-gaj", -fen)), id=f"led_{fact}", **changes)


@pytest.mark.parametrize("lines", [(), (EntryLine("a", 0),), (EntryLine("a", 5),), (EntryLine("a", 5), EntryLine("b", -4))])
def test_what_does_not_balance_cannot_be_made(lines):
    with pytest.raises(Unbalanced):
        Entry("fact", NOW, lines)


def test_lines_of_one_account_become_one():
    assert entry_lines(("a", 10), ("b", -4), ("b", -6), ("c", 0)) == (EntryLine("a", 10), EntryLine("b", -10))


def test_documents_keep_everything():
    one = entry(order_id="ord_1", provider="wechatpay", agency_id="sg-gaj", memo="payment")
    assert Entry.from_document(one.to_document()) == one


@pytest.mark.parametrize(
    "other", [entry("settled:pay_2"), entry(fen=4001), entry(order_id="ord_2"), entry(memo="x"), entry(provider="alipay")]
)
def test_every_part_of_an_entry_is_in_its_hash(other):
    assert entry_hash(entry()) == entry_hash(entry())
    assert entry_hash(other) != entry_hash(entry())
    assert hash_of_entries([entry(), other]) != hash_of_entries([other, entry()])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 10**10)), max_size=20), st.integers(1, 5))
def test_running_balances_are_the_sums_however_entries_fall_into_blocks(facts, size):
    entries = [
        Entry(f"f:{index}", NOW, entry_lines((f"provider:{name}", fen), (f"agency:{name}", -fen)))
        for index, (name, fen) in enumerate(facts)
    ]
    block = None
    for start in range(0, len(entries), size):
        newer = next_block(block, entries[start : start + size], NOW)
        assert newer["_id"] == (block["_id"] + 1 if block else 1)
        block = newer
    if block:
        assert block["balances"] == added({}, pairs_of(entries))
        assert sum(block["balances"].values()) == 0
