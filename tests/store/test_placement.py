"""The slot and tag of each node's control keys."""

from __future__ import annotations

import random
from binascii import crc_hqx
from itertools import count, product, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.placement import (
    SLOTS,
    control_slots,
    control_tag,
    is_shard_tag,
    key_slot,
    tag_of,
)
from support.thorough import thorough

REVERSED = [int(f"{slot:014b}"[::-1], 2) for slot in range(SLOTS)]
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def texts() -> dict[int, str]:
    """Return the first text of each slot, by trying them all in order."""
    first: dict[int, str] = {}
    for length in takewhile(lambda _: len(first) < SLOTS, count(1)):
        for text in map("".join, product(DIGITS, repeat=length)):
            if text != HOME_TAG:
                first.setdefault(crc_hqx(text.encode(), 0) % SLOTS, text)
    return first


def test_tag_of_every_slot_is_its_shortest_first_text() -> None:
    """Clients in other languages find the same by trial, and no guard refuses it."""
    tags = {slot: tag_of(slot) for slot in range(SLOTS)}

    assert tags == texts()
    assert all(is_shard_tag(tag) for tag in tags.values())
    assert {slot for slot, tag in tags.items() if key_slot(tag.encode()) != slot} == set()


def test_shard_in_slot_of_home_has_other_tag_than_home() -> None:
    """Else the state of the shard would be the state of the home."""
    tag = tag_of(key_slot(HOME_TAG.encode()))

    assert tag != HOME_TAG
    assert key_slot(Keyspace().at_shard(tag).state("agent").encode()) == key_slot(
        Keyspace().at_home().state("agent").encode()
    )


@pytest.mark.parametrize("tag", ["", HOME_TAG, "abcde", "A", "a}", "a\n", "é", "²", "a b", "-"])
def test_text_that_would_change_names_is_no_tag(tag: str) -> None:
    """It becomes part of the names of keys, and clients choose it."""
    assert not is_shard_tag(tag)


@pytest.mark.parametrize("slot", [-1, SLOTS, SLOTS + 1])
def test_number_outside_of_slots_has_no_tag(slot: int) -> None:
    """A wrong number must not become the tag of another slot."""
    with pytest.raises(ValueError, match="is not a slot"):
        tag_of(slot)


def test_control_slots_of_whole_cluster_are_in_bit_reversed_order() -> None:
    """The order that the reference documents."""
    slots = list(control_slots([(0, SLOTS - 1)]))

    assert slots[:5] == [0, 8192, 4096, 12288, 2048]
    assert slots == sorted(range(SLOTS), key=REVERSED.__getitem__)


@thorough(100)
@given(st.sets(st.integers(0, SLOTS - 1), max_size=60), st.integers())
def test_control_slots_do_not_depend_on_form_of_ranges(slots: set[int], seed: int) -> None:
    """Servers list ranges in any order and join neighbours at will; all clients find the same."""
    alone = [(slot, slot) for slot in slots]
    joined = [
        (slot, next(end for end in count(slot) if end + 1 not in slots))
        for slot in slots
        if slot - 1 not in slots
    ]
    random.Random(seed).shuffle(alone)

    expected = sorted(slots, key=REVERSED.__getitem__)
    assert list(control_slots(alone)) == list(control_slots(joined)) == expected


@thorough(100)
@given(st.integers(1, SLOTS - 2), st.data())
def test_control_slot_stays_while_other_slots_move(end: int, data: st.DataObject) -> None:
    """Credit at a shard is of use only as long as clients find it."""
    slot = next(control_slots([(0, end)]))
    moved = data.draw(st.integers(1, end))

    left = [(0, moved - 1), (moved + 1, end)]
    assert next(control_slots([item for item in left if item[0] <= item[1]])) == slot


def test_next_control_slot_follows_skipped_one() -> None:
    """A slot that is moving away cannot be written."""
    assert control_tag([(0, SLOTS - 1)]) == tag_of(0)
    assert control_tag([(0, SLOTS - 1)], {0, 8192}) == tag_of(4096)
    assert control_tag([(0, 1)], {0, 1}) is None
    assert control_tag([]) is None


def test_tags_of_even_clusters_are_documented_ones() -> None:
    """Clients in other languages can check theirs against these."""
    ranges = [(0, 5460), (5461, 10922), (10923, 16383)]
    assert [control_tag([item]) for item in ranges] == ["1bz", "fjl", "356"]
