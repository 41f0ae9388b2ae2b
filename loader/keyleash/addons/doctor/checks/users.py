"""Checks of ACL users."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import SHOWN, DoctorFinding, finding
from keyleash.policy.problems import listing
from keyleash.store.deployment import Server
from keyleash.store.server import denied_commands
from keyleash.store.users import fenced_identities, fences_advice, is_default_user_open


def check_default_user(context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Check the user of connections that have not logged in."""
    if is_default_user_open(server.client):
        yield finding("open-default-user", server.name)


def check_fences(context: Context, main: Server) -> Iterator[DoctorFinding]:
    """Look for users that an earlier version made for agents."""
    store = context.store_of(main)
    if names := fenced_identities(store):
        advice = fences_advice(store, names)
        yield finding("fences-gone", names=listing(names, SHOWN), advice=advice)


def check_commands(context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Try commands that managed servers, or rules of the user, may deny."""
    for name, reason in denied_commands(server.client, context.keyspace.policy).items():
        yield finding("command-denied", server.name, name=name, reason=reason)
