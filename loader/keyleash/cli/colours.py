"""Whether output may be coloured."""

from __future__ import annotations

import os


def is_plain() -> bool:
    """Whether colours are not wanted: https://no-color.org, where an empty value says nothing."""
    return bool(os.environ.get("NO_COLOR"))
