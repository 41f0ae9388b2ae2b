"""Reading errors; a guard's refusal is `LEASH <CODE> key=value …`, values percent-encoded."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from keyleash.errors import KeyleashError, LeashError, ReplyCode

_MARK = "LEASH "
_OF_PIPELINE = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)


def _subclasses(base: type[LeashError]) -> dict[str, type[LeashError]]:
    return {cls.code: cls for cls in base.__subclasses__()}


_BY_CODE = _subclasses(LeashError)
assert set(_BY_CODE) == set(ReplyCode)  # noqa: S101 - a code without a class is a bug in errors.py


def refusal(line: str) -> LeashError | None:
    """Turn an error reply into the typed error it stands for.

    Args:
        line: The error as redis-py gives it.

    Returns:
        The error, or None if *line* is no refusal: then it is the command's own error.

    Raises:
        KeyleashError: a refusal with a code that this version does not know. It is
            still a refusal.
    """
    if not line.startswith(_MARK):
        return None
    code, *pairs = line[len(_MARK) :].split(" ")
    cls = _BY_CODE.get(code)
    if cls is None:
        raise KeyleashError(
            f"the guard refused the call with the unknown code `{code}`",
            help="update keyleash on this side",
        )
    return cls(dict(_pair(pair) for pair in pairs if "=" in pair))


def said_by(error: Exception) -> str:
    """What a server said, without the command that redis-py puts in front where it was in a
    pipeline: keys of a sealed server begin with a secret.
    """
    return _OF_PIPELINE.sub("", str(error))


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, unquote_to_bytes(value).decode("utf-8", "surrogateescape")
