"""Types of parameters: what a program may pass, and how the command line reads it.

A type in a signature is a name. Types that one operation alone has stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Annotated, Any

from keyleash.policy.quantities import positive, seconds_of
from keyleash.store.state import check_reason


@dataclass(frozen=True, slots=True)
class Param:
    """The facts about a parameter that its Python type does not say.

    Attributes:
        kind: How the command line reads and completes it: a name in `cli.derive.KINDS`.
        help: The help of its option.
        flag: The name of its option, if it is not that of the parameter. It makes an option of a
            parameter that may be given by place.
        check: Called with the name of the parameter and a value, and raises ArgumentError or
            ValueError if it is not allowed. Methods call it before they ask the server, the command
            line before it connects or asks for confirmation.
    """

    kind: str = ""
    help: str = ""
    flag: str = ""
    check: Callable[[str, Any], object] | None = None

    def over(self, inner: Param) -> Param:
        """Return these facts with those of an inner type that they lack."""
        names = (field.name for field in fields(Param))
        return Param(*(getattr(self, name) or getattr(inner, name) for name in names))


Duration = Annotated[str | timedelta, Param("duration", check=seconds_of)]
"""A duration as text, such as `90s` or `1h30m`, or as a `timedelta`."""
Count = Annotated[int, Param("count", check=positive)]
IdentityName = Annotated[str, Param("identity")]
TokenId = Annotated[str, Param("token_id")]
Labels = Annotated[Mapping[str, str], Param("labels")]
LimitName = Annotated[
    str,
    Param(
        "limit",
        help="One limit, such as `rate.writes` or `budget.requests`.  [default: all of the"
        " identity]",
        flag="--limit",
    ),
]
Reason = Annotated[str, Param(check=check_reason)]
FreezeReason = Annotated[
    Reason, Param(help="Reason, included in every denial; must not hold a secret.")
]
RecordedReason = Annotated[
    Reason, Param(help="Reason, recorded in the audit log; must not hold a secret.")
]
FreezeDuration = Annotated[
    Duration, Param(help="Duration, such as `30m`.  [default: until `keyleash thaw`]", flag="--for")
]
