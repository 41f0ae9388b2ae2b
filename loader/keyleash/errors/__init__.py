"""The errors of keyleash, with stable codes and exit codes, and the reply codes of guards.

All errors derive from `KeyleashError`, whose text has the help too. Most are an `OperationError`,
distinguished by `code`. The denials of a guard derive from `LeashError`, which is also a redis-py
`ResponseError`, so that code written for redis-py catches them.
"""

from typing import TYPE_CHECKING

from keyleash.errors.base import *  # noqa: F403 - `__all__` below has the classes of the package
from keyleash.errors.denials import *  # noqa: F403
from keyleash.errors.denials import DENIALS as DENIALS
from keyleash.errors.operations import *  # noqa: F403
from keyleash.errors.operations import EXIT_CODES as EXIT_CODES
from keyleash.errors.operations import no_policy as no_policy
from keyleash.errors.sentences import ReplyCode as ReplyCode

if not TYPE_CHECKING:  # Type checkers read literal lists only; to them these are exported anyway.
    __all__ = [
        name
        for name, item in vars().items()
        if isinstance(item, type) and item.__module__.startswith(__name__)
    ]
    for _name in __all__:
        # Tracebacks and documentation name the place from which programs import it.
        globals()[_name].__module__ = "keyleash"
