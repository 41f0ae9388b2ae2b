"""Requests and vouchers, their signatures, and the records of leases."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.doubles import MOST
from keyleash.limits import Budget, Counter
from keyleash.limits.calendar import Period
from keyleash.limits.rate import RATE_SHARES
from keyleash.store.leases import (
    BUDGET_SHARES,
    FIRST_AMOUNT,
    GROWTH,
    MIN_RATE_LIFE_US,
    REQUEST_START,
    SHORT_LIFE_PARTS,
    SHORT_LIFE_US,
    VOUCHER_START,
    LimitCredit,
    LimitEntry,
    ShardState,
    identity_key,
    leased_layout,
    mac_pads,
    rate_life_us,
    unpack_entry,
    unpack_shard,
)
from keyleash.store.placement import SLOTS, tag_of
from keyleash.store.state import Layout, layout_of
from keyleash.store.token import token_digest
from support.thorough import thorough
from support.vouchers import LimitRequest, LimitVoucher, Request, Voucher, grant_amount, mac

KEY = identity_key(bytes(range(32)), "agent")
OTHER = identity_key(bytes(range(32)), "agent2")
numbers = st.integers(0, MOST - 1)
tags = st.integers(0, SLOTS - 1).map(tag_of)
requests = st.builds(
    Request,
    tags,
    numbers,
    numbers,
    st.booleans(),
    st.lists(st.builds(LimitRequest, numbers, numbers, numbers), max_size=4).map(tuple),
)
vouchers = st.builds(
    Voucher,
    tags,
    numbers,
    numbers,
    numbers,
    numbers,
    st.binary(max_size=8).map(lambda data: token_digest(data.hex())),
    st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=12, max_size=12),
    numbers,
    st.lists(st.builds(LimitVoucher, numbers, numbers, numbers), max_size=4).map(tuple),
)
texts = st.one_of(requests, vouchers)

VOUCHER = Voucher(
    tag="1bz",
    seq=7,
    asked_us=1_700_000_000_000_000,
    stamp=4711,
    epoch=3,
    token_digest=token_digest("token"),
    token_id="abcdefghijkm",
    token_life_us=10_000_000,
    limits=(LimitVoucher(4, 86_400_000_000, 1_700_006_400_000_000), LimitVoucher(2, 100_000)),
)
REQUEST = Request(
    tag="1bz",
    seq=7,
    asked_us=1_700_000_000_000_000,
    limits=(LimitRequest(1, 1_700_006_400_000_000, 40), LimitRequest(3)),
)


@thorough(100)
@given(texts)
def test_text_of_request_or_voucher_is_read_as_written(item: Request | Voucher) -> None:
    """All numbers that a double holds exactly pass through."""
    text = item.write(KEY)

    assert item.verify(text, KEY) == item
    assert item.parse(text) == item


def test_texts_are_those_of_reference() -> None:
    """Scripts and clients in other languages write and read these."""
    assert REQUEST.write(KEY).rpartition(":")[0] == (
        "1bz:7:1700000000000000:0:1:1700006400000000:40:3:0:0"
    )
    assert VOUCHER.write(KEY).rpartition(":")[0] == (
        "1bz:7:1700000000000000:4711:3:ee977806d7286510da8b9a7492ba58e2484c0ecc:abcdefghijkm"
        ":10000000:4:86400000000:1700006400000000:2:100000:0"
    )


def changed_fields(text: str) -> Iterator[str]:
    """Yield *text* with each of its fields changed, removed, doubled and swapped."""
    words = text.split(":")
    for place, word in enumerate(words):
        for new in ([f"{word}1"], [word[:-1]], [], [word, word], ["0"], ["9"], [f"0{word}"]):
            yield ":".join([*words[:place], *new, *words[place + 1 :]])
        for other in range(place):
            swapped = list(words)
            swapped[place], swapped[other] = swapped[other], swapped[place]
            yield ":".join(swapped)
    yield from (f"{text}:", f":{text}", f"{text}\n", f" {text}", text.upper(), text.lower() + "0")


@pytest.mark.parametrize("item", [REQUEST, VOUCHER, replace(VOUCHER, limits=())])
def test_changed_field_is_found(item: Request | Voucher) -> None:
    """An agent carries both texts and may change them."""
    text = item.write(KEY)
    forged = set(changed_fields(text)) - {text}

    assert len(forged) > 50
    for other in forged:
        with pytest.raises(ValueError, match=r"."):
            item.verify(other, KEY)


@thorough(100)
@given(texts, texts)
def test_signature_of_another_text_does_not_pass(
    item: Request | Voucher, other: Request | Voucher
) -> None:
    """Each signature is of one text, and of one kind of text."""
    text, signature = item.write(KEY).rpartition(":")[0], other.write(KEY).rpartition(":")[2]
    if text == other.write(KEY).rpartition(":")[0]:
        return
    with pytest.raises(ValueError, match="signature"):
        item.verify(f"{text}:{signature}", KEY)


@thorough(100)
@given(texts)
def test_text_of_another_identity_does_not_pass(item: Request | Voucher) -> None:
    """Identities have keys of their own."""
    with pytest.raises(ValueError, match="signature"):
        item.verify(item.write(OTHER), KEY)


def test_request_does_not_pass_for_voucher() -> None:
    """Else a shard could sign its own voucher."""
    text = VOUCHER.write(KEY).rpartition(":")[0]
    with pytest.raises(ValueError, match="signature"):
        Voucher.verify(f"{text}:{mac(KEY, REQUEST_START + text)}", KEY)
    assert Voucher.verify(f"{text}:{mac(KEY, VOUCHER_START + text)}", KEY) == VOUCHER


@pytest.mark.parametrize("read", [Request.parse, Voucher.parse])
@thorough(100)
@given(st.one_of(st.text(), st.text(":0123456789abcdef- ", max_size=120)))
def test_malformed_text_raises_value_error(read: Callable[[str], object], text: str) -> None:
    """Nothing that an agent sends raises anything else."""
    with pytest.raises(ValueError, match=r"."):
        read(text)


@thorough(100)
@given(texts, st.data())
def test_text_with_malformed_field_raises_value_error(
    item: Request | Voucher, data: st.DataObject
) -> None:
    """Fields that a script's `tonumber` would take, and others."""
    words = item.write(KEY).split(":")
    place = data.draw(st.integers(1, len(words) - 1))
    bad = st.sampled_from(["", "-1", "+1", "1e3", "0x1", " 1", "1.0", "nan", "٣", "²", str(MOST)])
    words[place] = data.draw(bad)

    with pytest.raises(ValueError, match=r"."):
        item.parse(":".join(words))


def test_text_with_lone_surrogates_raises_value_error() -> None:
    """They come from replies that are no UTF-8."""
    with pytest.raises(ValueError, match="signed"):
        Voucher.verify("\udcff:" + "0" * 40, KEY)


def test_mac_is_hmac_with_inner_digest_in_hex() -> None:
    """Scripts have the digest in hex alone."""
    inner, outer = mac_pads(KEY)

    assert inner == bytes(byte ^ 0x36 for byte in KEY) + b"\x36" * 32
    assert outer == bytes(byte ^ 0x5C for byte in KEY) + b"\x5c" * 32
    hexed = hashlib.new("sha1", inner + b"v:text", usedforsecurity=False).hexdigest().encode()
    expected = hashlib.new("sha1", outer + hexed, usedforsecurity=False).hexdigest()
    assert mac(KEY, "v:text") == expected


def test_key_longer_than_block_is_rejected() -> None:
    """HMAC would hash it first; here every key has 32 bytes."""
    with pytest.raises(ValueError, match="64 bytes"):
        mac_pads(bytes(65))


def test_key_of_identity_is_derived_from_master_key() -> None:
    """An operator's machine can derive it from the master key at any time."""
    expected = hmac.new(bytes(32), b"agent", "sha256").digest()
    assert identity_key(bytes(32), "agent") == expected
    assert KEY != OTHER


units = st.integers(1, 10**15)


@thorough(100)
@given(
    rest=st.integers(-10, 10**15),
    want=units,
    limit=units,
    shares=st.sampled_from([BUDGET_SHARES, RATE_SHARES]),
    shards=st.integers(0, 1024),
    last=st.integers(0, 10**13),
)
def test_grant_is_within_rest_and_share(
    rest: int, want: int, limit: int, shares: int, shards: int, last: int
) -> None:
    """A lease is never more than the rest; what the call does not need is within all bounds."""
    amount = grant_amount(rest, want, limit, shares=shares, shards=shards, last=last)

    assert amount <= rest
    assert amount >= min(rest, want)
    if amount > want:
        assert amount * shares * max(1, shards) <= limit
        assert amount <= (GROWTH * last or FIRST_AMOUNT)


def test_grants_grow_until_limit_is_near() -> None:
    """Few leases while there is much, and small ones at the end, so that little is left unused."""
    used, last, amounts = 0, 0, []
    while used < 1000:
        last = grant_amount(1000 - used, 1, 1000, shares=BUDGET_SHARES, shards=2, last=last)
        used += last
        amounts.append(last)

    assert amounts[:3] == [4, 8, 10]
    assert max(amounts) == 10
    assert amounts[-2:] == [1, 1]
    assert used == 1000


def test_life_of_rates_is_tenth_of_period_and_within_half_a_burst() -> None:
    """Units fill their place for the period and this time; vouchers of a short burst are timed."""
    assert rate_life_us(60_000_000) == 6_000_000
    assert rate_life_us(1_000_000) == MIN_RATE_LIFE_US == rate_life_us(10_000)
    assert rate_life_us(60_000_000, 2_000_000) == 1_000_000
    assert rate_life_us(60_000_000, 600_000_000) == 6_000_000
    # How long a voucher is on its way is not known yet, then it is.
    assert rate_life_us(1_000_000, 1_000) == rate_life_us(1_000_000, 0) == MIN_RATE_LIFE_US
    assert rate_life_us(1_000_000, 1_000, 5_000) == 5_000 * SHORT_LIFE_PARTS
    assert rate_life_us(1_000_000, 0, 1) == SHORT_LIFE_US
    assert rate_life_us(1_000_000, 100_000, 1) == 50_000
    assert rate_life_us(1_000_000, 0, 10_000_000) == MIN_RATE_LIFE_US


def layout(*budgets: int) -> Layout:
    """Return the layout of the state of an identity that has *budgets*."""
    return layout_of(Budget(Counter.WRITES, limit, Period.DAY) for limit in budgets)


def test_number_of_leased_layout_changes_with_limits() -> None:
    """Credit for a limit that was lowered is of no use."""
    found = {leased_layout(item) for item in (Layout(), layout(10), layout(9), layout(10, 9))}

    assert len(found) == 4
    assert all(0 < number < 2**48 for number in found)


def packed(numbers: list[int]) -> bytes:
    """Return the numbers as a script packs them."""
    return struct.pack(f"<{len(numbers)}d", *numbers)


@thorough(100)
@given(
    st.lists(numbers, min_size=5, max_size=5),
    st.lists(st.tuples(numbers, numbers, numbers, numbers)),
)
def test_lease_entry_is_read_as_script_writes_it(
    first: list[int], limits: list[tuple[int, int, int, int]]
) -> None:
    """The home has one for each shard."""
    entry = unpack_entry(packed([*first, *(number for item in limits for number in item)]))
    assert list(astuple(entry))[:5] == first
    assert entry.limits == tuple(LimitEntry(*item) for item in limits)


@thorough(100)
@given(
    st.lists(numbers, min_size=8, max_size=8),
    st.lists(st.tuples(numbers, numbers, numbers, numbers)),
)
def test_shard_state_is_read_as_script_writes_it(
    first: list[int], limits: list[tuple[int, int, int, int]]
) -> None:
    """Numbers that a call changes come first, so that one command writes them."""
    credit = [item[place] for place in (0, 1) for item in limits]
    windows = [number for item in limits for number in item[2:]]

    state = unpack_shard(packed([*first, *credit, *windows]))
    assert list(astuple(state))[:8] == first
    assert state.limits == tuple(LimitCredit(*item) for item in limits)


@pytest.mark.parametrize("unpack", [unpack_entry, unpack_shard])
@thorough(100)
@given(st.binary(max_size=200))
def test_any_record_is_read_or_raises_value_error(
    unpack: Callable[[bytes], object], data: bytes
) -> None:
    """A damaged record may hold anything."""
    with suppress(ValueError):
        unpack(data)


def test_corrupt_suspension_of_shard_suspends() -> None:
    """As at the home, any value but 0 suspends."""
    names = [field.name for field in fields(ShardState)]
    numbers = [0.0] * 8
    numbers[names.index("suspended")] = float("nan")

    assert unpack_shard(struct.pack("<8d", *numbers)).suspended != 0
