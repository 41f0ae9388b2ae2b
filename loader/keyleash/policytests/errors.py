"""What may go wrong with tests of a policy, other than that they fail."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.errors import KeyleashError, PolicyError, Problem


class BadCasesError(PolicyError):
    """Test files have problems; all of them are here."""

    code = "bad-tests"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        count = len(problems)
        self.message = f"{count} problem{'s' if count != 1 else ''} in the tests"


class NotEmptyError(KeyleashError):
    """The database that tests would load policies into holds something."""

    code = "not-empty"


class GuardBrokeError(KeyleashError):
    """A guard neither refused a call nor let it through."""

    code = "guard-broke"
    exit_code = 70
