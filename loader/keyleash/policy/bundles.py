"""Bundles of scripts: those of libraries, which are read from the installed library.

A bundle lists where the texts are and their digests, so that another text is never approved
unseen. The texts themselves are not part of keyleash.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
        versions: The versions of the library whose texts have these digests, as words.
        texts: The SHA-1 of each text, by module and attribute, or by package and file. The text of
            a function is the constant in it that calls Redis, and that of a `.js` file its
            template `content`. It may have blanks for newlines. Of a text that versions differ in
            there is a list, with None if some of them lack it.
        distribution: The name of the library at PyPI or npm, if that of the bundle is another.
    """

    versions: str
    texts: Mapping[str, Mapping[str, str | Sequence[str | None]]]
    distribution: str | None = None

    @property
    def digests(self) -> Mapping[str, Sequence[str | None]]:
        """The SHA-1s of each text, by its place: `module:attribute` or `package:file`."""
        return {
            f"{module}:{name}": [found] if isinstance(found, str) else found
            for module, texts in self.texts.items()
            for name, found in texts.items()
        }

    @property
    def is_of_node(self) -> bool:
        """True if its texts are in a package of Node.js."""
        return any(name.endswith(".js") for texts in self.texts.values() for name in texts)


_TEMPLATE = re.compile(r"\bcontent = `((?:[^`\\$]|\\[^xu0-9]|\$(?!\{))*)`;")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "\n": ""}

BUNDLES: Mapping[str, Bundle] = {
    name: Bundle(**entry)
    for name, entry in json.loads(Path(__file__).with_name("bundles.json").read_bytes()).items()
}


def bundle_of(digest: str) -> str:
    """Return the name of the bundle that has a script; empty if there is none."""
    for name, bundle in BUNDLES.items():
        if any(digest in digests for digests in bundle.digests.values()):
            return name
    return ""


def bundle_texts(name: str, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each script of a bundle; each character is a byte.

    Args:
        folder: Where Node.js would look for its package; the current folder if None.

    Raises:
        OperationError (bundle): The library is not installed, or has other texts.
    """
    bundle = BUNDLES[name]
    distribution = bundle.distribution or name
    folder = folder or Path.cwd()
    library = f"`{distribution}` {bundle.versions}"
    found = installed_version(name, folder)
    installed = f"; version {found} is installed" if found else ""
    for place, digests in bundle.digests.items():
        try:
            text = _text(folder, *place.split(":"))
        except (ImportError, AttributeError, OSError) as error:
            if None in digests and isinstance(error, FileNotFoundError | AttributeError):
                continue
            needed = (isinstance(error, ModuleNotFoundError) and error.name) or place
            if re.split("[.:]", needed)[0] != re.split("[.:]", place)[0]:
                library = f"`{needed}`, which {library} needs,"
            raise OperationError(
                "bundle",
                f"cannot read `{place}` of the bundle `{name}`: {error}{installed}",
                help=f"install {library} where policies are checked and loaded",
            ) from None
        if sha1_of(text) not in digests:
            text = text.replace(b"\n", b" ")
        if sha1_of(text) not in digests:
            raise OperationError(
                "bundle",
                f"`{place}` has another text than in {library}{installed}",
                help="install that version or one with the same texts, or approve the files of the"
                " scripts by `scripts`",
            )
        yield place, text.decode("latin-1")


def installed_version(name: str, folder: Path) -> str | None:
    """Return the version of a bundle's library that is installed; None if there is none."""
    bundle = BUNDLES[name]
    library = bundle.distribution or name
    try:
        if not bundle.is_of_node:
            return version(library)
        described = json.loads((_node_package(library, folder) / "package.json").read_bytes())
        return str(described["version"])
    except (PackageNotFoundError, ImportError, OSError, ValueError, LookupError, TypeError):
        return None


def template_of(source: str) -> bytes:
    """Return the template `content` of JavaScript; nothing if there is none without values."""
    template = _TEMPLATE.search(source.replace("\r\n", "\n"))
    if template is None:
        return b""
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), template[1]).encode()


def _node_package(name: str, folder: Path) -> Path:
    """Return the folder of a package, as Node.js finds it from *folder*."""
    places = [item / "node_modules" for item in (folder, *folder.parents)]
    places += map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))
    for place in places:
        if (place / name).is_dir():
            return place / name
    raise ImportError(
        f"no package `{name}` in `node_modules` of `{folder}`, of a folder above, or in NODE_PATH"
    )


def _text(folder: Path, module: str, name: str) -> bytes:
    if name.endswith(".js"):
        return template_of((_node_package(module, folder) / name).read_text("utf-8"))
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


def sha1_of(text: bytes) -> str:
    """Return the SHA-1 of a text."""
    return sha1(text, usedforsecurity=False).hexdigest()
