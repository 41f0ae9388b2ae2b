"""Reading of streams page by page."""

from __future__ import annotations

from keyleash.audit.read import read_events
from keyleash.store import streams as paging
from keyleash.store.store import Store
from support.streams import KEYS, Streams


def test_pages_join_without_loss_in_both_directions(streams: Streams) -> None:
    """Several pages, with several entries in a millisecond."""
    count = 2 * paging.MAX_PAGE + 300
    with streams.client.pipeline() as pipe:
        for number in range(count):
            pipe.xadd(KEYS.audit("a"), {"SET": number}, id=f"{number // 7 + 1}-{number % 7}")
        pipe.execute()

    forwards = [event.keys for event in read_events(Store(streams.client, KEYS), ["a"])]
    backwards = [
        event.keys for event in read_events(Store(streams.client, KEYS), ["a"], newest_first=True)
    ]

    assert forwards == [(b"%d" % number,) for number in range(count)]
    assert backwards == forwards[::-1]


def test_page_of_large_entries_is_small(embedded_streams: Streams) -> None:
    """Before-images make entries large, and the server must not copy hundreds of them at once."""
    for number in range(1, 200):
        embedded_streams.event("a", f"{number}-0", before="k", expires=-1, image=b"x" * 64_000)

    store = Store(embedded_streams.client, KEYS)
    (stream,) = paging.audit_streams(store, ["a"])
    sizes = [len(page) for page in paging.read_pages(store, stream)]

    assert sum(sizes) == 199
    assert max(sizes) == paging.FIRST_PAGE
    assert set(sizes[1:-1]) == {15}
