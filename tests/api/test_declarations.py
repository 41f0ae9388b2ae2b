"""Declarations of operations that are wrong, which programmers see at once."""

from __future__ import annotations

import click
import pytest

import keyleash
from keyleash.cli.derive import options_of
from keyleash.operations import operation
from keyleash.store.store import Store


@operation()
def counted(_store: Store, *, newest: int | None = None, keys: list[str] | None = None) -> None:
    """Take parameters without a kind."""


def test_option_without_a_kind_is_read_by_its_type() -> None:
    """A text would fail only at the operation, as an error of keyleash."""
    command = click.command()(options_of(counted, "newest")(lambda newest: newest))

    assert command.main(["--newest", "3"], standalone_mode=False) == 3
    with pytest.raises(click.BadParameter):
        command.main(["--newest", "x"], standalone_mode=False)


def test_option_whose_type_is_not_read_from_text_is_an_error() -> None:
    """When the command is made, not when the option is given."""
    with pytest.raises(TypeError, match="`keys` needs a kind"):
        options_of(counted, "keys")(lambda keys: keys)


def test_method_has_the_name_that_its_noun_gives_it() -> None:
    """Tracebacks and profiles show what was called."""
    method = keyleash.Operator.from_url().policies.get

    assert (method.__name__, method.__qualname__) == ("get", "PolicyOperations.get")
