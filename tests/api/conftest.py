"""Operators of an embedded server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import keyleash
from support.servers import RealServer


@pytest.fixture
def op(embedded: RealServer) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded.url, actor="deploy@ci") as operator:
        yield operator


@pytest.fixture
def loaded(op: keyleash.Operator, request: pytest.FixtureRequest) -> keyleash.Operator:
    """One whose server has the policy `ONE` of the test's module."""
    op.load(request.module.ONE)
    return op
