"""The errors of keyleash, with stable codes and exit codes, and the reply codes of guards.

All errors derive from `KeyleashError`, whose text has the help too. Most are an `OperationError`,
distinguished by `code`. The denials of a guard derive from `LeashError`, which is also a redis-py
`ResponseError`, so that code written for redis-py catches them.
"""

from typing import TYPE_CHECKING

from keyleash.errors import base, denials, operations
from keyleash.errors.base import *  # noqa: F403 - the modules list their names
from keyleash.errors.denials import *  # noqa: F403
from keyleash.errors.denials import DENIALS as DENIALS
from keyleash.errors.operations import *  # noqa: F403
from keyleash.errors.operations import EXIT_CODES as EXIT_CODES
from keyleash.errors.operations import no_policy as no_policy

if not TYPE_CHECKING:  # Type checkers read literal lists only; to them these are exported anyway.
    __all__ = base.__all__ + denials.__all__ + operations.__all__
