"""Which fields a policy document has, and their types, as pydantic models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WrapValidator

from keyleash.policy.yaml import Path

ABSENT: Any = None
"""The default of a field that may be left out; not valid if written."""


def _count_as_text(value: object) -> object:
    # `ttl: 3600` is better told that a unit is missing than that it is no text.
    return str(value) if type(value) is int else value


def _scalar_as_limit(value: object) -> object:
    return {"limit": value} if type(value) in (str, int) else value


def _number_or_text_passes(value: object, read: Callable[[object], object]) -> object:
    return value if type(value) in (str, int) else read(value)


def _text_passes(value: object, read: Callable[[object], object]) -> object:
    return value if type(value) is str else read(value)


Quantity = Annotated[str, BeforeValidator(_count_as_text)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TokenShape(_Shape):
    ttl: Quantity = ABSENT
    max_ttl: Quantity = ABSENT
    rotate_after: Quantity = ABSENT
    idle: Quantity = ABSENT


class RetainShape(_Shape):
    until: str
    hard_max: int


class ImagesShape(_Shape):
    max_bytes: Quantity


RetainEntry = Annotated[RetainShape, WrapValidator(_number_or_text_passes)]
ImagesEntry = Annotated[ImagesShape, WrapValidator(_text_passes)]


class AuditShape(_Shape):
    retain: RetainEntry = ABSENT
    reads: bool = ABSENT
    values: str = ABSENT
    mask_keys: list[str] = ABSENT
    before_images: ImagesEntry = ABSENT


class DurabilityShape(_Shape):
    wait_replicas: int = ABSENT
    timeout: Quantity = ABSENT


class OnDenialsShape(_Shape):
    threshold: Quantity
    suspend: Quantity


OnDenialsEntry = Annotated[OnDenialsShape, WrapValidator(_text_passes)]


class LimitsShape(_Shape):
    work: int = ABSENT


class ValuesShape(_Shape):
    max_bytes: Quantity = ABSENT


class DefaultsShape(_Shape):
    token: TokenShape = ABSENT
    audit: AuditShape = ABSENT
    durability: DurabilityShape = ABSENT
    on_denials: OnDenialsEntry = ABSENT
    limits: LimitsShape = ABSENT


class GrantShape(_Shape):
    allow: list[str]
    # Which of the two a grant needs, its classes say.
    keys: list[str] = ABSENT
    channels: list[str] = ABSENT
    only: list[str] = ABSENT
    except_: list[str] = Field(ABSENT, alias="except")
    before_images: ImagesEntry = ABSENT
    values: ValuesShape = ABSENT


class DenyShape(_Shape):
    keys: list[str]


class RateShape(_Shape):
    limit: Quantity
    burst: int = ABSENT
    per: str = ABSENT


class BudgetShape(_Shape):
    limit: Quantity
    timezone: str = ABSENT
    per: str = ABSENT


RateEntry = Annotated[RateShape, BeforeValidator(_scalar_as_limit)]
BudgetEntry = Annotated[BudgetShape, BeforeValidator(_scalar_as_limit)]


class RatesShape(_Shape):
    requests: RateEntry = ABSENT
    reads: RateEntry = ABSENT
    writes: RateEntry = ABSENT
    deletes: RateEntry = ABSENT


class BudgetsShape(_Shape):
    requests: BudgetEntry = ABSENT
    reads: BudgetEntry = ABSENT
    writes: BudgetEntry = ABSENT
    deletes: BudgetEntry = ABSENT


class IdentityShape(_Shape):
    kind: str
    grants: list[GrantShape]
    deny: list[DenyShape] = ABSENT
    rate: RatesShape = ABSENT
    budget: BudgetsShape = ABSENT
    token: TokenShape = ABSENT
    audit: AuditShape = ABSENT
    durability: DurabilityShape = ABSENT
    on_denials: OnDenialsEntry = ABSENT
    limits: LimitsShape = ABSENT
    accept: dict[str, str] = ABSENT


class DocumentShape(_Shape):
    version: int
    defaults: DefaultsShape = ABSENT
    identities: dict[str, IdentityShape]


def known_fields(path: Path) -> tuple[str, ...]:
    """The names of the fields of the mapping at *path*."""
    shape: Any = DocumentShape
    for step in path:
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            shape = _aliases(shape)[str(step)]
        else:
            shape = get_args(shape)[-1]
    return tuple(_aliases(shape))


def _aliases(shape: type[BaseModel]) -> dict[str, Any]:
    return {info.alias or name: info.annotation for name, info in shape.model_fields.items()}
