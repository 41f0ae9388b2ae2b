"""Find the Lua scripts in a folder, such as that of a library."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from keyleash.errors import OperationError
from keyleash.policy.bundles import BUNDLES, bundle_of, sha1_of, template_of
from keyleash.policy.files import read_bytes
from keyleash.policy.lint.grant_rules import failing_calls
from keyleash.policy.lua import MAX_BYTES, RESP3, LuaError
from keyleash.policy.scripts import OF_LOCKS, approved

_SOURCES = {
    (module, str(PurePath(name).parent) if name.endswith(".js") else "")
    for bundle in BUNDLES.values()
    for module, texts in bundle.texts.items()
    for name in texts
    if not name.endswith(".lua")
}
"""The Python modules that have scripts, and the packages of Node.js with the folder that has."""
_CALLS = re.compile(r"redis\s*\.\s*p?call")
_INCLUDE = re.compile(rb"^\s*---?\s*@include\b", re.MULTILINE)
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class FoundScript:
    """A script of a folder.

    Attributes:
        name: A name for it in a policy.
        place: Its file; of a Python constant, with the name of that.
        source: Its text; each character is a byte.
        is_file: Whether the file has its text alone.
        bundle: The bundle that has it; empty if none has.
        computes_names: Whether it computes the names of further ones.
        denied: Its calls that no policy allows, each with its place in the text and the reason.
        problem: Why it cannot be approved, with the place in the text; empty if it can.
    """

    name: str
    place: str
    digest: str
    source: str = field(repr=False)
    is_file: bool
    bundle: str
    commands: tuple[str, ...] = ()
    computes_names: bool = False
    denied: tuple[str, ...] = ()
    problem: str = ""


def find_scripts(folder: Path) -> tuple[FoundScript, ...]:
    """Return the scripts of a folder, each text once, in the order of their places.

    They are `*.lua` files, but for parts that others include, and texts in the sources of libraries
    that have bundles. Nothing is imported, and symbolic links are not followed.

    Raises:
        OperationError (file): A file cannot be read.
        OperationError (no-scripts): There is no script.
    """
    if not folder.is_dir():
        problem = f"cannot read `{folder}`: it is not a directory"
        raise OperationError("file", problem, help="name the folder with the scripts")
    texts: dict[bytes, str] = {}
    for place, text in _texts(folder):
        texts.setdefault(text, place)
    if not texts:
        raise OperationError(
            "no-scripts",
            f"there is no Lua script in `{folder}`",
            help="name the folder of a library, such as `node_modules/bullmq`; scripts in sources"
            " are found in libraries that have bundles",
        )
    taken = {OF_LOCKS, *BUNDLES}
    return tuple(_described(place, text, taken) for text, place in texts.items())


def _texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the place and the text of each script."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        root, name = Path(here), os.path.basename(os.path.abspath(here))
        is_whole = True
        for module, below in sorted(_SOURCES):
            top, *parts = module.split(".")
            if top != name:
                continue
            for path in sorted((root / below).glob("*.js")) if below else ():
                # Its `*.lua` files are what it makes these texts of.
                is_whole, folders[:] = False, [item for item in folders if item == "node_modules"]
                if text := template_of(read_bytes(str(path)).decode("utf-8", "replace")):
                    yield str(path), text
            stem = root.joinpath(*parts)
            for path in () if below else (stem.with_suffix(".py"), stem / "__init__.py"):
                if path.is_file():
                    yield from _constants(path)
        for file in sorted(files) if is_whole else ():
            path = root / file
            if path.suffix == ".lua" and not _INCLUDE.search(text := read_bytes(str(path))):
                yield str(path), text


def _constants(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the constants of a Python source that call Redis, named after what has them."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, bytes]]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.JoinedStr() | ast.Expr(value=ast.Constant()):
                    # No whole text, or a docstring.
                    continue
                case ast.Constant(value=str(text)) if _CALLS.search(text):
                    blanks = text.replace("\n", " ").encode()
                    yield f"{path}:{name}", blanks if bundle_of(sha1_of(blanks)) else text.encode()
                case ast.Assign(targets=[ast.Name(id=own)]):
                    yield from visit(child, own)
                case _:
                    yield from visit(child, child.name if isinstance(child, _NAMED) else name)

    try:
        module = ast.parse(read_bytes(str(path)))
    except (SyntaxError, ValueError) as error:
        raise OperationError("file", f"cannot read `{path}`: {error}") from None
    return visit(module, "")


def _described(place: str, data: bytes, taken: set[str]) -> FoundScript:
    digest, source, number = sha1_of(data), data.decode("latin-1"), 2
    words = _WORDS.findall(PurePath(place.rpartition(":")[2]).stem)
    name = first = "-".join(words).lower()[:60] or "script"
    while name in taken:
        name, number = f"{first}-{number}", number + 1
    taken.add(name)
    common = name, place, digest, source, place.endswith(".lua"), bundle_of(digest)
    try:
        if len(data) <= MAX_BYTES:
            text = approved(name, source, place).text
            return FoundScript(
                *common,
                commands=tuple(sorted(name for name, *_ in text.places if name != RESP3)),
                computes_names=text.commands is None,
                denied=tuple(failing_calls(text)),
            )
        problem = f"it has more than {MAX_BYTES} bytes"
    except LuaError as error:
        problem = f"{error.line}:{error.column}: {error.message}"
    return FoundScript(*common, problem=problem)
