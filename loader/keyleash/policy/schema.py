"""The schema of a policy document as pydantic models, and its JSON Schema.

Simple fields follow from the declarations in `model`; fields that hold rules are written here. The
names of the classes are those of the definitions in the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from keyleash.commands import OperationClass
from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.limits import Counter
from keyleash.limits.budget import Budget as BudgetLimit
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy import model
from keyleash.policy.quantities import format_size
from keyleash.policy.settings import Setting, SettingKind, settings_of
from keyleash.policy.yaml import Path

ABSENT: Any = None
"""The default of an optional field; not valid in a document."""

_SUBJECT = "Subject that shares the counter: `identity`, `token` or a captured segment."


@dataclass(frozen=True, slots=True)
class Expected:
    """The type of a field in error messages."""

    text: str


def _count_as_text(value: object) -> object:
    # For `ttl: 3600` the error is a missing unit, not a wrong type.
    return str(value) if type(value) is int else value


def _scalar_as_limit(value: object) -> object:
    return {"limit": value} if type(value) in (str, int) else value


def _number_or_text_passes(value: object, read: Callable[[object], object]) -> object:
    return value if type(value) in (str, int) else read(value)


def _text_passes(value: object, read: Callable[[object], object]) -> object:
    return value if type(value) is str else read(value)


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


Quantity = Annotated[str, BeforeValidator(_count_as_text)]
Duration = Annotated[
    Quantity,
    Expected("a duration"),
    _text("(?=.*[1-9])([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?"),
]
Wait = Annotated[Quantity, Expected("a duration"), _text("(?=.*[1-9])[0-9]+(ms|s)")]
Size = Annotated[Quantity, Expected("a size"), _text("(?=.*[1-9])[0-9]+(b|kb|mb)")]


def _counts_per(periods: Iterable[str]) -> WithJsonSchema:
    return _text(f"(?=0*[1-9])[0-9]+/({'|'.join(periods)})")


RateQuantity = Annotated[Quantity, Expected("a count per period"), _counts_per(RATE_PERIODS_US)]
BudgetQuantity = Annotated[
    Quantity, Expected("a count per period"), _counts_per(BudgetLimit.PERIODS)
]
_BYTES = "(?=0*[1-9])[0-9]+(b|kb|mb|gb|tb)"
ByteRateQuantity = Annotated[
    str, Expected("an amount of bytes per period"), _text(f"{_BYTES}/({'|'.join(RATE_PERIODS_US)})")
]
ByteBudgetQuantity = Annotated[
    str,
    Expected("an amount of bytes per period"),
    _text(f"{_BYTES}/({'|'.join(BudgetLimit.PERIODS)})"),
]
KeyPatterns = Annotated[list[str], Expected("a list of key patterns")]
Commands = Annotated[list[str], Expected("a list of commands and categories")]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


def _needed(example: str, help: str, **schema: Any) -> Any:
    """Declare a required field: an example in YAML, one sentence, and JSON Schema keywords."""
    return Field(description=help, examples=[example], json_schema_extra=schema or None)


def _optional(example: str, help: str, **schema: Any) -> Any:
    """Declare an optional field in the same way; the keyword `default` has its default."""
    return Field(ABSENT, description=help, examples=[example], json_schema_extra=schema or None)


class Retain(_Shape):
    until: str = _needed("exported", "The event that ends the retention.", enum=["exported"])
    hard_max: int = _needed("1000000", "Most events that may wait for export.", minimum=1)


class BeforeImages(_Shape):
    max_bytes: Size = _needed("64kb", "The largest value.")


RetainValue = Annotated[
    Retain,
    WrapValidator(_number_or_text_passes, json_schema_input_type=int | Duration | Retain),
    Expected("a count, a duration or a mapping"),
]
BeforeImagesValue = Annotated[
    BeforeImages,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | BeforeImages),
    Expected("a mapping or `off`"),
]

_TYPES: dict[SettingKind, Any] = {
    SettingKind.FLAG: bool,
    SettingKind.COUNT: int,
    SettingKind.DURATION: Duration,
    SettingKind.WAIT: Wait,
    SettingKind.CHOICE: str,
    SettingKind.PATTERNS: KeyPatterns,
    SettingKind.RETENTION: RetainValue,
    SettingKind.IMAGES: BeforeImagesValue,
}


def _keywords(setting: Setting, default: object) -> dict[str, Any]:
    """Return the JSON Schema keywords of a declaration besides its type."""
    keywords: dict[str, Any] = {}
    if setting.kind is SettingKind.COUNT:
        keywords |= zip(("minimum", "maximum"), setting.bounds, strict=True)
    if setting.choices:
        keywords["enum"] = [*setting.choices]
    if default is not None:
        keywords["default"] = setting.written(default)
    return keywords


def _section(name: str, section: type) -> Any:
    """Return the shape of a section whose fields are declared in a dataclass."""
    defaults = {item.name: item.default for item in fields(section)}
    definitions: dict[str, Any] = {
        setting.key: (
            _TYPES[setting.kind],
            _optional(
                setting.example,
                setting.help,
                **_keywords(setting, defaults[field]),
            ),
        )
        for field, setting in settings_of(section).items()
        if not setting.part_of
    }
    return create_model(name, __base__=_Shape, **definitions)


def _limits(name: str, entry: Any, bytes_entry: Any, bytes_example: str) -> Any:
    """Return the shape of a mapping from counters to limits."""
    calls = {counter: f"calls that {counter.removesuffix('s')}" for counter in Counter}
    calls[Counter.REQUESTS] = "every call"
    calls[Counter.BYTES_READ] = "bytes in the replies of calls that read"
    calls[Counter.BYTES_WRITTEN] = "bytes in the arguments of calls that write"
    definitions: dict[str, Any] = {
        counter.value: (
            bytes_entry if counter.is_bytes else entry,
            _optional(bytes_example if counter.is_bytes else "3000/hour", f"Limits {some}."),
        )
        for counter, some in calls.items()
    }
    return create_model(name, __base__=_Shape, **definitions)


class OnDenials(_Shape):
    threshold: RateQuantity = _needed("50/minute", "Denials that suspend the identity.")
    suspend: Duration = _needed("10m", "Duration of the suspension.")


OnDenialsValue = Annotated[
    OnDenials,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | OnDenials),
    Expected("a mapping or `off`"),
]


class Idempotency(_Shape):
    keep: Duration = _needed("24h", "Time for which calls with an id are remembered.")
    max_reply: Size = _optional(
        "4kb",
        "The longest reply that is stored.",
        default=format_size(model.DEFAULT_MAX_REPLY_BYTES),
    )


IdempotencyValue = Annotated[
    Idempotency,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | Idempotency),
    Expected("a mapping or `off`"),
]


class Rate(_Shape):
    limit: RateQuantity = _needed("600/minute", "Calls per sliding period.")
    burst: int = _optional("60", "Most calls back to back.", minimum=1)
    per: str = _optional('"{workspace_id}"', _SUBJECT, default="identity")


class Budget(_Shape):
    limit: BudgetQuantity = _needed("600/minute", "Calls per calendar period.")
    timezone: str = _optional("Europe/Berlin", "IANA time zone of the calendar.", default="UTC")
    per: str = _optional('"{workspace_id}"', _SUBJECT, default="identity")


class ByteRate(_Shape):
    limit: ByteRateQuantity = _needed("1mb/minute", "Bytes per sliding period.")
    burst: Size = _needed("4mb", "Most bytes at once.")
    per: str = _optional("token", _SUBJECT, default="identity")


class ByteBudget(_Shape):
    limit: ByteBudgetQuantity = _needed("1gb/day", "Bytes per calendar period.")
    timezone: str = _optional("Europe/Berlin", "IANA time zone of the calendar.", default="UTC")
    per: str = _optional("token", _SUBJECT, default="identity")


RateEntry = Annotated[
    Rate,
    BeforeValidator(_scalar_as_limit, json_schema_input_type=RateQuantity | Rate),
    Expected("a limit"),
]
BudgetEntry = Annotated[
    Budget,
    BeforeValidator(_scalar_as_limit, json_schema_input_type=BudgetQuantity | Budget),
    Expected("a limit"),
]

ByteRateEntry = Annotated[ByteRate, Expected("a limit with `burst`")]
ByteBudgetEntry = Annotated[
    ByteBudget,
    BeforeValidator(_scalar_as_limit, json_schema_input_type=ByteBudgetQuantity | ByteBudget),
    Expected("a limit"),
]

if TYPE_CHECKING:

    class Token(_Shape): ...

    class Delegate(_Shape): ...

    class Audit(_Shape): ...

    class Durability(_Shape): ...

    class Cluster(_Shape): ...

    class Limits(_Shape): ...

    class Rates(_Shape): ...

    class Budgets(_Shape): ...
else:
    Token = _section("Token", model.TokenRules)
    Delegate = _section("Delegate", model.Delegation)
    Audit = _section("Audit", model.AuditRules)
    Durability = _section("Durability", model.Durability)
    Cluster = _section("Cluster", model.ClusterRules)
    Limits = _section("Limits", model.Identity)
    Rates = _limits("Rates", RateEntry, ByteRateEntry, "{limit: 1mb/minute, burst: 4mb}")
    Budgets = _limits("Budgets", BudgetEntry, ByteBudgetEntry, "1gb/day")


DelegateValue = Annotated[
    Delegate,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | Delegate),
    Expected("a mapping or `off`"),
]


class Ttl(_Shape):
    default: Duration = _optional("1d", "Expiry of a written key that has none; without it, `max`.")
    max: Duration = _optional("7d", "Longest expiry.")


class Values(_Shape):
    max_bytes: Size = _optional(
        "64kb",
        "The longest string or element that a call may make.",
        default=format_size(DEFAULT_VALUE_BYTES),
    )
    max_elements: int = _optional(
        "1000", "The most elements of a collection.", minimum=1, maximum=1_000_000_000
    )
    ttl: Ttl = _optional("{default: 1d, max: 7d}", "The expiry of every written key.")
    only: str = _optional(
        "absent", "The only state of a key in which it may be written.", enum=[*model.KeyState]
    )


class Defaults(_Shape):
    token: Token = _optional("{ttl: 12h, max_ttl: 3d}", "Lifetimes of tokens.")
    delegate: DelegateValue = _optional(
        "{depth: 2, children: 20, max_ttl: 1h}",
        "Child tokens that tokens may make.",
        default="off",
    )
    audit: Audit = _optional("{retain: 100000}", "What to record, and for how long.")
    durability: Durability = _optional(
        "{wait_replicas: 1, timeout: 50ms}", "Replicas that must acknowledge a write."
    )
    cluster: Cluster = _optional("{lease: 10s}", "Leases of tokens at the nodes of a cluster.")
    on_denials: OnDenialsValue = _optional(
        "{threshold: 50/minute, suspend: 10m}",
        "When denials suspend the identity.",
        default="off",
    )
    idempotency: IdempotencyValue = _optional(
        "{keep: 24h, max_reply: 4kb}",
        "The memory of calls with an idempotency id, which may be sent again.",
        default="off",
    )
    limits: Limits = _optional("{work: 250000}", "Limits of a single call.")


class Grant(_Shape):
    allow: Annotated[list[str], Expected("a list of operation classes")] = _needed(
        "[read, write]",
        "Operation classes that the grant allows.",
        items={"enum": [*OperationClass]},
        minItems=1,
    )
    # The operation classes decide which of the two a grant needs.
    keys: KeyPatterns = _optional(
        '["agents:context:*"]', "Keys that the grant applies to.", minItems=1
    )
    channels: Annotated[list[str], Expected("a list of channel patterns")] = _optional(
        '["agents:events:*"]', "Channels that `publish` and `subscribe` apply to.", minItems=1
    )
    only: Commands = _optional(
        '[GET, "@hash"]', "The only commands that the grant applies to.", minItems=1
    )
    except_: Commands = Field(
        ABSENT,
        alias="except",
        description="Commands that the grant does not apply to.",
        examples=['[GETDEL, "@bitmap"]'],
    )
    before_images: BeforeImagesValue = _optional(
        "{max_bytes: 64kb}", "`audit.before_images` for the keys of this grant."
    )
    values: Values = _optional("{max_bytes: 64kb}", "Rules for values under these keys.")
    scripts: Annotated[list[str], Expected("a list of scripts")] = _optional(
        "[redis-py-lock]", "Approved scripts that the identity may run.", minItems=1
    )


class ScriptFile(_Shape):
    file: str = _needed(
        "unlock.lua", "The file with its text, relative to the folder of the policy."
    )


class Deny(_Shape):
    keys: KeyPatterns = _needed(
        '["agents:context:*"]', "Keys to deny, whatever grants allow.", minItems=1
    )


class _Access(_Shape):
    kind: str = _needed(
        "machine", "Whether an agent or a person acts as the identity.", enum=[*model.IdentityKind]
    )
    grants: Annotated[list[Grant], Expected("a list of grants")] = _needed(
        '[{allow: [read], keys: ["agents:context:*"]}]', "What the identity may do.", minItems=1
    )
    deny: Annotated[list[Deny], Expected("a list of deny rules")] = _optional(
        '[{keys: ["agents:jobs:{job_id}:lock"]}]', "Keys to deny, whatever grants allow."
    )
    rate: Annotated[Rates, Expected("a mapping from counters to rates")] = _optional(
        "{writes: 600/minute}", "Sliding-window limits."
    )
    budget: Annotated[Budgets, Expected("a mapping from counters to budgets")] = _optional(
        "{requests: 50000/day}", "Limits per calendar period."
    )


class Identity(Defaults, _Access):
    accept: Annotated[dict[str, str], Expected("a mapping from findings to reasons")] = _optional(
        '{no-budget: "it runs once a day"}', "Lint findings to accept, each with the reason."
    )


class Document(_Shape):
    version: int = _needed("1", "Version of the policy language.", enum=[1])
    defaults: Defaults = _optional(
        "{token: {ttl: 12h}}", "Rules for identities that do not set their own."
    )
    scripts: Annotated[dict[str, ScriptFile], Expected("a mapping from names to scripts")] = (
        _optional(
            "{unlock: {file: unlock.lua}}",
            "Lua scripts that grants may name.",
            propertyNames={"pattern": "^[a-z0-9-]{1,64}$"},
        )
    )
    identities: Annotated[dict[str, Identity], Expected("a mapping from names to identities")] = (
        _needed(
            "{agent-reader: {…}}",
            "Identities by name.",
            minProperties=1,
            propertyNames={"pattern": "^[a-z0-9-]{1,64}$"},
        )
    )


def errors_of(document: object) -> list[ErrorDetails]:
    """Return the errors of a document, without their input."""
    try:
        Document.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False, include_context=False, include_input=False)
    return []


def known_fields(path: Path) -> dict[str, FieldInfo]:
    """Return the fields of the mapping at *path*, by name."""
    shape: Any = Document
    for step in path:
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            shape = _fields(shape)[str(step)].annotation
        else:
            shape = get_args(shape)[-1]
    return _fields(shape)


def _fields(shape: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in shape.model_fields.items()}


def expected(info: FieldInfo) -> str:
    """Return the type of a field in words."""
    own = next((item.text for item in info.metadata if isinstance(item, Expected)), None)
    words: dict[Any, str] = {int: "a whole number", bool: "`true` or `false`", str: "text"}
    return own or words.get(info.annotation, "a mapping")


def example(name: str, info: FieldInfo) -> str:
    """Return a line that sets a field."""
    return f"{name}: {(info.examples or [''])[0]}"


EXAMPLES = {
    name: example(name, info)
    for shape in (Audit, Grant, Identity)
    for name, info in _fields(shape).items()
}
"""A line for each field that may be a list, by name."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of policy documents."""
    schema = _cleaned(Document.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "keyleash policy",
        "description": "A policy document of keyleash.",
        **schema,
    }


def _cleaned(schema: Any) -> Any:
    """Return *schema* without generated titles and null defaults, with examples as values."""
    if isinstance(schema, list):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    cleaned: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "examples":
            values = [yaml.safe_load(item) for item in value if "…" not in item]
            cleaned |= {name: values} if values else {}
        elif not (name == "title" and isinstance(value, str)) and (name, value) != (
            "default",
            None,
        ):
            cleaned[name] = _cleaned(value)
    return cleaned
