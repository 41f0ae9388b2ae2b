"""The schema of a policy document: its fields, their types, and its JSON Schema.

Simple fields follow from the declarations in `model`; fields that hold rules are written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from keyleash.commands import OperationClass
from keyleash.limits import BaseLimit, Budget, Counter, Rate
from keyleash.limits.counters import BYTES
from keyleash.policy import model
from keyleash.policy.problems import Problems, quote
from keyleash.policy.quantities import UNITS_BYTES, format_size
from keyleash.policy.settings import Setting, SettingKind, settings_of
from keyleash.policy.shapes import OFF, OFF_SCHEMA, Field, Json, ListOf, MapOf, Section, Shape, Spot
from keyleash.policy.yaml import YamlNode

_SUBJECT = "Subject that shares the counter: `identity`, `token` or a captured segment."
_NAMES: Json = {"propertyNames": {"pattern": "^[a-z0-9-]{1,64}$"}}


def _quantity(expected: str, pattern: str, *types: type) -> Shape:
    return Shape(expected, types or (str, int), ({"pattern": f"^{pattern}$", "type": "string"},))


def _amount(kind: type[BaseLimit], units: Iterable[str] = ()) -> Shape:
    unit, periods = f"({'|'.join(units)})" if units else "", "|".join(kind.PERIODS)
    return _quantity(
        f"{'an amount of bytes' if units else 'a count'} per period",
        f"(?=0*[1-9])[0-9]+{unit}/({periods})",
        *([str] if units else []),
    )


def _or(shape: Section, *alternatives: Shape, expected: str = "a mapping or `off`") -> Section:
    """Return the shape of a section that may be a scalar instead."""
    types = tuple(item for other in alternatives for item in other.types)
    scalars = tuple(item for other in alternatives for item in other.scalars)
    return replace(shape, expected=expected, types=types, scalars=scalars)


def _section(name: str, **fields: Field) -> Section:
    return Section("a mapping", name=name, fields=fields)


def _need(shape: Shape, example: str, help: str, **keywords: Any) -> Field:
    return Field(shape, example, help, True, keywords)


def _may(shape: Shape, example: str, help: str, **keywords: Any) -> Field:
    return Field(shape, example, help, False, keywords)


_OFF = Shape("`off`", (str,), (OFF_SCHEMA,))
_TEXT = Shape("text", (str,), ({"type": "string"},))
_COUNT = Shape("a whole number", (int,), ({"type": "integer"},))
_FLAG = Shape("`true` or `false`", (bool,), ({"type": "boolean"},))
_DURATION = _quantity("a duration", "(?=.*[1-9])([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?")
_WAIT = _quantity("a duration", "(?=.*[1-9])[0-9]+(ms|s)")
_SIZE = _quantity("a size", f"(?=.*[1-9])[0-9]+({'|'.join(UNITS_BYTES)})")
_KEYS = ListOf("a list of key patterns", entry=_TEXT)
_COMMANDS = ListOf("a list of commands and categories", entry=_TEXT)

_RETAIN = _or(
    _section(
        "Retain",
        until=_need(_TEXT, "exported", "The event that ends the retention.", enum=["exported"]),
        hard_max=_need(_COUNT, "1000000", "Most events that may wait for export.", minimum=1),
    ),
    _COUNT,
    _DURATION,
    expected="a count, a duration or a mapping",
)
_BEFORE_IMAGES = _or(
    _section("BeforeImages", max_bytes=_need(_SIZE, "64kb", "The largest value.")), _OFF
)

_SHAPES = {
    SettingKind.FLAG: _FLAG,
    SettingKind.COUNT: _COUNT,
    SettingKind.DURATION: _DURATION,
    SettingKind.WAIT: _WAIT,
    SettingKind.CHOICE: _TEXT,
    # With an empty list an identity removes the masks of the defaults.
    SettingKind.PATTERNS: replace(_KEYS, may_be_empty=True),
    SettingKind.SIZE: _SIZE,
    SettingKind.RETENTION: _RETAIN,
    SettingKind.IMAGES: _BEFORE_IMAGES,
}


def _keywords(setting: Setting, default: object) -> Json:
    """Return the JSON Schema keywords of a declaration besides its type."""
    keywords: Json = {}
    if setting.kind is SettingKind.COUNT:
        keywords |= zip(("minimum", "maximum"), setting.bounds, strict=True)
    if setting.choices:
        keywords["enum"] = [*setting.choices]
    if (value := setting.otherwise if default is None else default) is not None:
        keywords["default"] = setting.written(value)
    return keywords


def _declared(name: str, section: type) -> Section:
    """Return the shape of a section whose fields are declared in a dataclass."""
    defaults = {item.name: item.default for item in fields(section)}
    return _section(
        name,
        **{
            setting.key: Field(
                _SHAPES[setting.kind],
                setting.example,
                setting.help,
                keywords=_keywords(setting, defaults[field]),
            )
            for field, setting in settings_of(section).items()
            if not setting.part_of
        },
    )


def _limits(name: str, entry: Section, bytes_entry: Section, bytes_example: str) -> Section:
    """Return the shape of a mapping from counters to limits."""
    calls = {counter: f"calls that {counter.removesuffix('s')}" for counter in Counter}
    calls[Counter.REQUESTS] = "every call"
    calls[Counter.BYTES_READ] = "bytes in the replies of calls that read"
    calls[Counter.BYTES_WRITTEN] = "bytes in the arguments of calls that write"
    return _section(
        name,
        **{
            counter.value: _may(
                bytes_entry if counter.is_bytes else entry,
                bytes_example if counter.is_bytes else "3000/hour",
                f"Limits {some}.",
            )
            for counter, some in calls.items()
        },
    )


def _limit(
    name: str, kind: type[BaseLimit], example: str, units: Iterable[str] = (), **option: Field
) -> Section:
    """Return the shape of a limit: a mapping, or the limit alone if the option is not required."""
    what = (
        f"{'Bytes' if units else 'Calls'} per {'sliding' if kind is Rate else 'calendar'} period."
    )
    shape = _section(
        name,
        limit=_need(_amount(kind, units), example, what),
        **option,
        per=_may(_TEXT, "token" if units else '"{workspace_id}"', _SUBJECT, default="identity"),
    )
    if any(field.required for field in option.values()):
        return replace(shape, expected="a limit with `burst`")
    return _or(shape, shape.fields["limit"].shape, expected="a limit")


_TIMEZONE = _may(_TEXT, "Europe/Berlin", "IANA time zone of the calendar.", default="UTC")
_RATES = _limits(
    "Rates",
    _limit(
        "Rate", Rate, "600/minute", burst=_may(_COUNT, "60", "Most calls back to back.", minimum=1)
    ),
    _limit("ByteRate", Rate, "1mb/minute", BYTES, burst=_need(_SIZE, "4mb", "Most bytes at once.")),
    "{limit: 1mb/minute, burst: 4mb}",
)
_BUDGETS = _limits(
    "Budgets",
    _limit("Budget", Budget, "600/minute", timezone=_TIMEZONE),
    _limit("ByteBudget", Budget, "1gb/day", BYTES, timezone=_TIMEZONE),
    "1gb/day",
)

_ON_DENIALS = _section(
    "OnDenials",
    threshold=_need(_amount(Rate), "50/minute", "Denials that suspend the identity."),
    suspend=_need(_DURATION, "10m", "Duration of the suspension."),
)
_IDEMPOTENCY = _section(
    "Idempotency",
    keep=_need(_DURATION, "24h", "Time for which calls with an id are remembered."),
    max_reply=_may(
        _SIZE,
        "4kb",
        "The longest reply that is stored.",
        default=format_size(model.DEFAULT_MAX_REPLY_BYTES),
    ),
)
_TTL = _may(
    _declared("Ttl", model.TtlRule), "{default: 1d, max: 7d}", "The expiry of every written key."
)
_RULES = _declared("Values", model.ValueRules).fields
_VALUES = _section(
    "Values",
    **{name: _RULES[name] for name in ("max_bytes", "max_elements")},
    ttl=_TTL,
    only=_RULES["only"],
)

_DEFAULTS = _section(
    "Defaults",
    token=_may(
        _declared("Token", model.TokenRules), "{ttl: 12h, max_ttl: 3d}", "Lifetimes of tokens."
    ),
    delegate=_may(
        _or(_declared("Delegate", model.Delegation), _OFF),
        "{depth: 2, children: 20, max_ttl: 1h}",
        "Child tokens that tokens may make.",
        default=OFF,
    ),
    audit=_may(
        _declared("Audit", model.AuditRules),
        "{retain: 100000}",
        "What to record, and for how long.",
    ),
    durability=_may(
        _declared("Durability", model.Durability),
        "{wait_replicas: 1, timeout: 50ms}",
        "Replicas that must acknowledge a write.",
    ),
    cluster=_may(
        _declared("Cluster", model.ClusterRules),
        "{lease: 10s}",
        "Leases of tokens at the nodes of a cluster.",
    ),
    on_denials=_may(
        _or(_ON_DENIALS, _OFF),
        "{threshold: 50/minute, suspend: 10m}",
        "When denials suspend the identity.",
        default=OFF,
    ),
    idempotency=_may(
        _or(_IDEMPOTENCY, _OFF),
        "{keep: 24h, max_reply: 4kb}",
        "The memory of calls with an idempotency id, which may be sent again.",
        default=OFF,
    ),
    limits=_may(_declared("Limits", model.Identity), "{work: 250000}", "Limits of a single call."),
)

_INDEX = Section(
    "a pattern or a mapping",
    (str,),
    _TEXT.scalars,
    name="Index",
    fields={
        "name": _need(_TEXT, "memory", "Pattern of names of indexes."),
        "where": _need(
            MapOf("a mapping from fields to values", entry=_TEXT, example='NAME: "{agent}"'),
            '{agent: "{agent}"}',
            "Fields of tags or numbers, and the only value of each that searches return.",
            minProperties=1,
        ),
    },
)
# The operation classes decide which of `keys` and `channels` a grant needs.
GRANT = Section(
    "a mapping",
    name="Grant",
    fields={
        "allow": _need(
            ListOf(
                "a list of operation classes",
                entry=Shape("text", (str,), ({"enum": [*OperationClass]},)),
            ),
            "[read, write]",
            "Operation classes that the grant allows.",
        ),
        "keys": _may(_KEYS, '["agents:context:*"]', "Keys that the grant applies to."),
        "channels": _may(
            ListOf("a list of channel patterns", entry=_TEXT),
            '["agents:events:*"]',
            "Channels that `publish` and `subscribe` apply to.",
        ),
        "indexes": _may(
            ListOf("a list of index patterns", entry=_INDEX),
            '["memory:{agent}"]',
            "Search indexes that `read`, `write` and `delete` apply to.",
        ),
        "only": _may(_COMMANDS, '[GET, "@hash"]', "The only commands that the grant applies to."),
        "except": _may(
            replace(_COMMANDS, may_be_empty=True),
            '[GETDEL, "@bitmap"]',
            "Commands that the grant does not apply to.",
        ),
        "before_images": _may(
            _BEFORE_IMAGES, "{max_bytes: 64kb}", "`audit.before_images` for the keys of this grant."
        ),
        "values": _may(_VALUES, "{max_bytes: 64kb}", "Rules for values under these keys."),
        "scripts": _may(
            ListOf("a list of scripts", entry=_TEXT),
            "[redis-py-lock]",
            "Approved scripts that the identity may run.",
        ),
    },
)
_DENY = _section(
    "Deny", keys=_need(_KEYS, '["agents:context:*"]', "Keys to deny, whatever grants allow.")
)
IDENTITY = _section(
    "Identity",
    kind=_need(
        _TEXT,
        "machine",
        "Whether an agent or a person acts as the identity.",
        enum=[*model.IdentityKind],
    ),
    grants=_need(
        ListOf(
            "a list of grants",
            entry=GRANT,
            noun="a grant",
            example='- {allow: [read], keys: ["agents:context:*"]}',
        ),
        '[{allow: [read], keys: ["agents:context:*"]}]',
        "What the identity may do.",
    ),
    deny=_may(
        ListOf(
            "a list of deny rules",
            entry=_DENY,
            noun="a deny rule",
            example='- {keys: ["agents:jobs:{job_id}:lock"]}',
            may_be_empty=True,
        ),
        '[{keys: ["agents:jobs:{job_id}:lock"]}]',
        "Keys to deny, whatever grants allow.",
    ),
    rate=_may(
        replace(_RATES, expected="a mapping from counters to rates"),
        "{writes: 600/minute}",
        "Sliding-window limits.",
    ),
    budget=_may(
        replace(_BUDGETS, expected="a mapping from counters to budgets"),
        "{requests: 50000/day}",
        "Limits per calendar period.",
    ),
    **_DEFAULTS.fields,
    accept=_may(
        MapOf(
            "a mapping from findings to reasons", entry=_TEXT, example='NAME: "it runs once a day"'
        ),
        '{no-budget: "it runs once a day"}',
        "Lint findings to accept, each with the reason.",
    ),
)
_SCRIPT_FILE = _section(
    "ScriptFile",
    file=_need(
        _TEXT, "unlock.lua", "The file with its text, relative to the folder of the policy."
    ),
)
DOCUMENT = _section(
    "Document",
    version=_need(_COUNT, "1", "Version of the policy language.", enum=[1]),
    defaults=_may(
        _DEFAULTS, "{token: {ttl: 12h}}", "Rules for identities that do not set their own."
    ),
    scripts=_may(
        MapOf(
            "a mapping from names to scripts", entry=_SCRIPT_FILE, example="NAME: {file: NAME.lua}"
        ),
        "{unlock: {file: unlock.lua}}",
        "Lua scripts that grants may name.",
        **_NAMES,
    ),
    tests=_may(
        ListOf("a list of test files", entry=_TEXT),
        "[agents.test.yaml]",
        "Test files, relative to the folder of the policy, whose invariants it must keep.",
    ),
    identities=_need(
        MapOf(
            "a mapping from names to identities",
            entry=IDENTITY,
            noun="the identity NAME",
            example="NAME: {kind: machine, grants: […]}",
        ),
        "{agent-reader: {…}}",
        "Identities by name.",
        minProperties=1,
        **_NAMES,
    ),
)


def check_document(root: YamlNode, problems: Problems) -> YamlNode:
    """Report each unknown field, missing field and wrong type; return the rest of the document."""
    checked = DOCUMENT.check(root, Spot("the document", "", "version: 1"), problems)
    return checked or replace(root, value={})


def check_distinct(entries: Iterable[tuple[str, YamlNode]], problems: Problems) -> None:
    """Report each entry that repeats the normalized text of an earlier one."""
    seen: set[str] = set()
    for text, entry in entries:
        if text in seen:
            problems.add(
                "repeated-entry", f"{quote(entry.source)} is repeated", entry.span, "remove one"
            )
        seen.add(text)


def json_schema() -> Json:
    """Return the JSON Schema of policy documents."""
    definitions: Json = {}
    document = DOCUMENT.own_json(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "keyleash policy",
        "description": "A policy document of keyleash.",
        "$defs": dict(sorted(definitions.items())),
        **document,
    }
