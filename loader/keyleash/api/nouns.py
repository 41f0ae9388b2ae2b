"""The public face: each noun of `Operator`, and the function of each of its methods."""

from __future__ import annotations

from keyleash.addons.export import run as archives
from keyleash.api import loading
from keyleash.api.report import incident_report
from keyleash.audit import log, token_use
from keyleash.audit.inspect import read_details, read_timeline
from keyleash.audit.point_in_time import value_at
from keyleash.audit.refused_scripts import refused_scripts
from keyleash.audit.stats import read_stats
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_selected
from keyleash.operations import F, Noun
from keyleash.operator.credit import collect_credit
from keyleash.operator.limit_reset import reset_limits
from keyleash.operator.tokens.issue import issue_token, issue_tokens
from keyleash.operator.tokens.list import id_of, list_tokens, token_tree
from keyleash.operator.tokens.renew import renew_token
from keyleash.operator.tokens.revoke import revoke as revoke_tokens
from keyleash.operator.tokens.rotate import rotate_token


class PolicyOperations(Noun[F]):
    """The active policy and those before it: `Operator.policies`."""

    active = loading.active_policy
    get = loading.require_policy
    history = loading.stored_policies


class TokenOperations(Noun[F]):
    """Tokens: `Operator.tokens`."""

    issue = issue_token
    issue_many = issue_tokens
    id_of = id_of
    list = list_tokens
    show = token_use.token_use
    renew = renew_token
    tree = token_tree
    rotate = rotate_token
    revoke = revoke_tokens
    with_calls_before = token_use.with_calls_before


class LimitOperations(Noun[F]):
    """Limits: `Operator.limits`."""

    reset = reset_limits
    collect = collect_credit


class AuditOperations(Noun[F]):
    """The audit log: `Operator.audit`.

    Common arguments: *identities* are names, all known ones if there are none; *since* and *until*
    are times by the server's clock: an aware `datetime`, ISO 8601 text, or how long ago, as text
    (`10m`) or `timedelta`.
    """

    events = log.events
    denials = log.denials
    control = log.control
    follow = log.follow
    follow_denials = log.follow_denials
    follow_control = log.follow_control
    find = read_details
    timeline = read_timeline
    value_at = value_at
    stats = read_stats
    refused_scripts = refused_scripts
    export = archives.export_streams
    follow_export = archives.follow_export
    verify = archives.verify
    report = incident_report


class UndoOperations(Noun[F]):
    """Undo: `Operator.undo`."""

    plan = plan_selected
    apply = apply_undo
