"""The shape of a policy document as pydantic models, and its JSON Schema.

Simple fields come from the declarations in `model`; fields that hold rules are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic.fields import FieldInfo

from keyleash.commands import OperationClass
from keyleash.limits import Budget, Rate
from keyleash.policy.model import AuditRules, Durability, Identity, IdentityKind, TokenRules
from keyleash.policy.settings import Setting, SettingKind, settings_of
from keyleash.policy.yaml import Path

ABSENT: Any = None
"""The default of an optional field; not valid if written."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a schema error says that a field must be."""

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
    _text("(?=.)([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?"),
]
Wait = Annotated[Quantity, Expected("a duration"), _text("[0-9]+(ms|s)")]
Size = Annotated[Quantity, Expected("a size"), _text("[0-9]+(b|kb|mb)")]
RateQuantity = Annotated[
    Quantity, Expected("a count per period"), _text(f"[0-9]+/({'|'.join(Rate.PERIODS)})")
]
BudgetQuantity = Annotated[
    Quantity, Expected("a count per period"), _text(f"[0-9]+/({'|'.join(Budget.PERIODS)})")
]
KeyPatterns = Annotated[list[str], Expected("a list of key patterns")]
Commands = Annotated[list[str], Expected("a list of commands and categories")]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _needed(example: str, help: str, **schema: Any) -> Any:
    """Declare a required field: an example in YAML, one sentence, and JSON Schema keywords."""
    return Field(description=help, examples=[example], json_schema_extra=schema or None)


def _optional(example: str, help: str, **schema: Any) -> Any:
    """Declare an optional field in the same way."""
    return Field(ABSENT, description=help, examples=[example], json_schema_extra=schema or None)


class RetainShape(_Shape):
    until: str = _needed("exported", "The event that ends the retention.", enum=["exported"])
    hard_max: int = _needed("1000000", "Most events that may wait for export.", minimum=1)


class ImagesShape(_Shape):
    max_bytes: Size = _needed("64kb", "The largest value.")


Retention = Annotated[
    RetainShape,
    WrapValidator(_number_or_text_passes, json_schema_input_type=int | Duration | RetainShape),
    Expected("a count, a duration or a mapping"),
]
Images = Annotated[
    ImagesShape,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | ImagesShape),
    Expected("a mapping or `off`"),
]

_TYPES: dict[SettingKind, Any] = {
    SettingKind.FLAG: bool,
    SettingKind.COUNT: int,
    SettingKind.DURATION: Duration,
    SettingKind.WAIT: Wait,
    SettingKind.SIZE: Size,
    SettingKind.CHOICE: str,
    SettingKind.PATTERNS: KeyPatterns,
    SettingKind.RETENTION: Retention,
    SettingKind.IMAGES: Images,
}


def _keywords(setting: Setting) -> dict[str, Any]:
    """Return the JSON Schema keywords of a declaration besides its type."""
    if setting.kind is SettingKind.COUNT:
        return dict(zip(("minimum", "maximum"), setting.bounds, strict=True))
    return {"enum": [*setting.choices]} if setting.choices else {}


def _section(name: str, model: type) -> Any:
    """Return the shape of a section whose fields are declared in a dataclass."""
    definitions: dict[str, Any] = {
        item.key: (_TYPES[item.kind], _optional(item.example, item.help, **_keywords(item)))
        for item in settings_of(model).values()
        if not item.part_of
    }
    return create_model(name, __base__=_Shape, **definitions)


if TYPE_CHECKING:

    class TokenShape(_Shape): ...

    class AuditShape(_Shape): ...

    class DurabilityShape(_Shape): ...

    class LimitsShape(_Shape): ...
else:
    TokenShape = _section("TokenShape", TokenRules)
    AuditShape = _section("AuditShape", AuditRules)
    DurabilityShape = _section("DurabilityShape", Durability)
    LimitsShape = _section("LimitsShape", Identity)


class OnDenialsShape(_Shape):
    threshold: RateQuantity = _needed("50/minute", "Denials that suspend the identity.")
    suspend: Duration = _needed("10m", "Duration of the suspension.")


OnDenials = Annotated[
    OnDenialsShape,
    WrapValidator(_text_passes, json_schema_input_type=Literal["off"] | OnDenialsShape),
    Expected("a mapping or `off`"),
]


class ValuesShape(_Shape):
    max_bytes: Size = _optional("64kb", "The longest string that a call may make.")


class _RulesShape(_Shape):
    token: TokenShape = _optional("{ttl: 12h, max_ttl: 3d}", "Lifetimes of tokens.")
    audit: AuditShape = _optional("{retain: 100000}", "What to record, and for how long.")
    durability: DurabilityShape = _optional(
        "{wait_replicas: 1, timeout: 50ms}", "Replicas that must acknowledge a write."
    )
    on_denials: OnDenials = _optional(
        "{threshold: 50/minute, suspend: 10m}", "When denials suspend the identity."
    )
    limits: LimitsShape = _optional("{work: 250000}", "Limits of a single call.")


class DefaultsShape(_RulesShape):
    pass


class GrantShape(_Shape):
    allow: Annotated[list[str], Expected("a list of operation classes")] = _needed(
        "[read, write]",
        "Operation classes that the grant allows.",
        items={"enum": [*OperationClass]},
    )
    # The operation classes decide which of the two a grant needs.
    keys: KeyPatterns = _optional('["agents:context:*"]', "Keys that the grant applies to.")
    channels: Annotated[list[str], Expected("a list of channel patterns")] = _optional(
        '["agents:events:*"]', "Channels that `publish` applies to."
    )
    only: Commands = _optional('[GET, "@hash"]', "The only commands that the grant applies to.")
    except_: Commands = Field(
        ABSENT,
        alias="except",
        description="Commands that the grant does not apply to.",
        examples=['[GETDEL, "@bitmap"]'],
    )
    before_images: Images = _optional(
        "{max_bytes: 64kb}", "`audit.before_images` for the keys of this grant."
    )
    values: ValuesShape = _optional("{max_bytes: 64kb}", "Bounds of values under these keys.")


class DenyShape(_Shape):
    keys: KeyPatterns = _needed('["agents:context:*"]', "Keys to deny, whatever grants say.")


class RateShape(_Shape):
    limit: RateQuantity = _needed("600/minute", "Calls per sliding period.")
    burst: int = _optional("60", "Most calls back to back.", minimum=1)
    per: str = _optional('"{workspace_id}"', "Subject that shares the counter.")


class BudgetShape(_Shape):
    limit: BudgetQuantity = _needed("600/minute", "Calls per calendar period.")
    timezone: str = _optional("Europe/Berlin", "IANA time zone of the calendar.")
    per: str = _optional('"{workspace_id}"', "Subject that shares the counter.")


RateEntry = Annotated[
    RateShape,
    BeforeValidator(_scalar_as_limit, json_schema_input_type=RateQuantity | RateShape),
    Expected("a limit"),
]
BudgetEntry = Annotated[
    BudgetShape,
    BeforeValidator(_scalar_as_limit, json_schema_input_type=BudgetQuantity | BudgetShape),
    Expected("a limit"),
]


class RatesShape(_Shape):
    requests: RateEntry = _optional("3000/hour", "Limits every call.")
    reads: RateEntry = _optional("3000/hour", "Limits calls that read.")
    writes: RateEntry = _optional("3000/hour", "Limits calls that write.")
    deletes: RateEntry = _optional("3000/hour", "Limits calls that delete.")


class BudgetsShape(_Shape):
    requests: BudgetEntry = _optional("3000/hour", "Limits every call.")
    reads: BudgetEntry = _optional("3000/hour", "Limits calls that read.")
    writes: BudgetEntry = _optional("3000/hour", "Limits calls that write.")
    deletes: BudgetEntry = _optional("3000/hour", "Limits calls that delete.")


class _AccessShape(_Shape):
    kind: str = _needed(
        "machine", "Whether an agent or a person acts as the identity.", enum=[*IdentityKind]
    )
    grants: Annotated[list[GrantShape], Expected("a list of grants")] = _needed(
        '[{allow: [read], keys: ["agents:context:*"]}]', "What the identity may do."
    )
    deny: Annotated[list[DenyShape], Expected("a list of deny rules")] = _optional(
        '[{keys: ["agents:jobs:{job_id}:lock"]}]', "Keys to deny, whatever grants say."
    )
    rate: Annotated[RatesShape, Expected("a mapping from counters to rates")] = _optional(
        "{writes: 600/minute}", "Sliding-window limits."
    )
    budget: Annotated[BudgetsShape, Expected("a mapping from counters to budgets")] = _optional(
        "{requests: 50000/day}", "Limits per calendar period."
    )


class IdentityShape(_RulesShape, _AccessShape):
    accept: Annotated[dict[str, str], Expected("a mapping from findings to reasons")] = _optional(
        '{no-budget: "it runs once a day"}', "Lint findings to accept, each with the reason."
    )


class DocumentShape(_Shape):
    version: int = _needed("1", "Version of the policy language.", enum=[1])
    defaults: DefaultsShape = _optional(
        "{token: {ttl: 12h}}", "Rules for identities that do not set their own."
    )
    identities: Annotated[
        dict[str, IdentityShape], Expected("a mapping from names to identities")
    ] = _needed(
        "{agent-reader: {…}}",
        "Identities by name.",
        propertyNames={"pattern": "^[a-z0-9-]{1,64}$"},
    )


def known_fields(path: Path) -> dict[str, FieldInfo]:
    """Return the fields of the mapping at *path*, by name."""
    shape: Any = DocumentShape
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
    for shape in (AuditShape, GrantShape, IdentityShape)
    for name, info in _fields(shape).items()
}
"""A line for each field that may be a list, by name."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of policy documents."""
    schema = _cleaned(DocumentShape.model_json_schema(by_alias=True))
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
