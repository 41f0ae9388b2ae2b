"""The API of operators and orchestrators: `Operator` and `Policy`."""

from typing import TYPE_CHECKING, Any

from keyleash.api.policy import Policy

if TYPE_CHECKING:
    from keyleash.api.operator import Operator

__all__ = ["Operator", "Policy"]


if not TYPE_CHECKING:  # Otherwise every name would exist for type checkers.

    def __getattr__(name: str) -> Any:
        # `Policy` alone needs no server, and less of the libraries.
        if name != "Operator":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from keyleash.api.operator import Operator  # noqa: PLC0415

        # Tracebacks and documentation name the place from which programs import it.
        Operator.__module__ = "keyleash"
        return Operator
