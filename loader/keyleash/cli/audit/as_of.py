"""`keyleash audit as-of`: what a key held at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.audit.trails import meant_key
from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import clock_time, counted, iso_time, json_bytes, printable
from keyleash.cli.times import Moment, moment
from keyleash.cli.undo.showing import say_untrusted
from keyleash.cli.values import value_as_json, value_lines

if TYPE_CHECKING:
    from keyleash.audit.as_of import ValueThen
    from keyleash.audit.undo import Value


@click.command("as-of", epilog=example("keyleash audit as-of 10m agents:jobs:42:state"))
@click.argument("time", callback=moment)
@click.argument("key")
@json_option
@pass_settings
def as_of(settings: Settings, time: Moment, key: str) -> None:
    """Print what KEY held at TIME, as before-images tell it.

    TIME is a duration ago, such as `10m`, or ISO 8601, in UTC if it names no zone. KEY is as it
    is, or as it is printed. The value alone goes to standard output, an element a line. Exit code
    1 where it cannot be told: no image was taken, the trail does not reach back so far, or the
    key was changed outside the guards.
    """
    from keyleash.audit.as_of import value_as_of

    time_ms = time.at(server_time_ms(settings.client))
    raw = meant_key(settings, key)
    then = value_as_of(settings.client, raw, time_ms, keyspace=settings.keyspace)
    if settings.json:
        print_json(_as_json(raw, time_ms, then))
        return
    if not then.value.is_absent:
        for line in value_lines(then.value):
            click.echo(line)
    say(f"`{printable(raw)}` at {clock_time(time_ms)}: {_described(then)}")
    say_untrusted(then.untrusted)


def _length(value: Value) -> str:
    return counted(value.length, "byte" if value.kind == "string" else "element")


def _described(then: ValueThen) -> str:
    value = then.value
    held = "did not exist" if value.is_absent else f"a {value.kind} of {_length(value)}"
    expires = "" if value.expires_ms is None else f", to expire {clock_time(value.expires_ms)}"
    until = f"until event {then.before.event}" if then.before else "as it is now"
    since = f"since event {then.after.event}" if then.after else "no change before is recorded"
    return f"{held}{expires}; {until}, {since}"


def _as_json(key: bytes, time_ms: int, then: ValueThen) -> dict[str, Any]:
    return {
        "key": json_bytes(key),
        "time": iso_time(time_ms),
        **(value_as_json(then.value, whole=True) or {}),
        "since": then.after.event if then.after else None,
        "until": then.before.event if then.before else None,
        "compared": then.is_compared,
        "untrusted": dict(then.untrusted),
    }
