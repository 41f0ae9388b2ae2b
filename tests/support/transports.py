"""Tests of guards by either transport."""

from __future__ import annotations

import pytest

from keyleash.store.wire import Transport
from support.clustered import LABELS
from support.servers import embedded_label

EITHER_TRANSPORT = pytest.mark.parametrize(
    "leash",
    [
        *((label, Transport.EVALSHA) for label in LABELS),
        # What a function does differently is seen on every server in test_transports.py.
        (embedded_label(), Transport.FUNCTION),
    ],
    ids="-".join,
    indirect=True,
)
"""A test by scripts on every server, and by functions on one."""

FUNCTIONS = pytest.mark.parametrize(
    "leash",
    [(label, Transport.FUNCTION) for label in LABELS],
    ids="-".join,
    indirect=True,
)
"""A test by functions on every server."""
