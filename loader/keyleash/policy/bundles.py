"""Bundles of scripts: those of libraries, which are read from the installed library.

A bundle lists where the texts are and their digests, so that another text is never approved
unseen. The texts themselves are not part of keyleash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

from keyleash.errors import OperationError


@dataclass(frozen=True, slots=True)
class Bundle:
    """The scripts of a library.

    Attributes:
        version: The version of the library whose texts have these digests.
        texts: The SHA-1 of each text, by module and attribute, or by package and file. The text of
            a function is the constant in it that calls Redis. It may have blanks for newlines.
        distribution: The name of the library at PyPI, if that of the bundle is another.
    """

    version: str
    texts: Mapping[str, Mapping[str, str]]
    distribution: str | None = None

    @property
    def digests(self) -> Mapping[str, str]:
        """The SHA-1 of each text, by its place: `module:attribute` or `package:file`."""
        return {
            f"{module}:{name}": digest
            for module, texts in self.texts.items()
            for name, digest in texts.items()
        }


BUNDLES: Mapping[str, Bundle] = {
    name: Bundle(**entry)
    for name, entry in json.loads(Path(__file__).with_name("bundles.json").read_bytes()).items()
}


def bundle_texts(name: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each script of a bundle; each character is a byte.

    Raises:
        OperationError (bundle): The library is not installed, or has other texts.
    """
    bundle = BUNDLES[name]
    distribution = bundle.distribution or name
    library, installed = f"`{distribution}` {bundle.version}", _installed(distribution)
    for place, digest in bundle.digests.items():
        try:
            text = _text(*place.split(":"))
        except (ImportError, AttributeError, OSError) as error:
            needed = (isinstance(error, ModuleNotFoundError) and error.name) or place
            if re.split("[.:]", needed)[0] != re.split("[.:]", place)[0]:
                library = f"`{needed}`, which {library} needs,"
            raise OperationError(
                "bundle",
                f"cannot read `{place}` of the bundle `{name}`: {error}{installed}",
                help=f"install {library} where policies are checked and loaded",
            ) from None
        if _digest(text) != digest:
            text = text.replace(b"\n", b" ")
        if _digest(text) != digest:
            raise OperationError(
                "bundle",
                f"`{place}` has another text than in {library}{installed}",
                help="install that version or one with the same texts, or approve the files of the"
                " scripts by `scripts`",
            )
        yield place, text.decode("latin-1")


def _installed(distribution: str) -> str:
    try:
        return f"; version {version(distribution)} is installed"
    except PackageNotFoundError:
        return ""


def _text(module: str, name: str) -> bytes:
    if name.endswith(".lua"):
        # Not imported: its folder is enough.
        spec = find_spec(module)
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise ImportError(f"no package `{module}`")
        return (Path(folders[0]) / name).read_bytes()
    text: Any = attrgetter(name)(import_module(module))
    if isinstance(text, FunctionType):
        constants = (item for item in text.__code__.co_consts if isinstance(item, str))
        text = next((item for item in constants if "redis.call" in item), "")
    return text if isinstance(text, bytes) else text.encode()


def _digest(text: bytes) -> str:
    return sha1(text, usedforsecurity=False).hexdigest()
