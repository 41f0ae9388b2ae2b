"""Find words that the style guide of CONTRIBUTING.md excludes.

python -m tools.check_language [--update]

Counts per folder must not exceed those of tools/language_baseline.json; `--update` lowers it.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

BASELINE = Path(__file__).with_name("language_baseline.json")
TREES = ("loader", "lua", "docs", "tests", "benchmarks", "tools")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
WORDS = re.compile(
    r"\b(told|said|meant|kept|anew|in vain|whoever|somebody|nobody|mend(s|ed|ing)?|beget(s)?"
    r"|with less ado|so many|what is more|minted|tells|telling|spoilt|let(s)? through|way back"
    r"|goes on with|stands for (it|them)|is no \w+ing|none of its|of (its|their) own accord"
    r"|alike)\b",
    re.IGNORECASE,
)
TITLE = re.compile(r"^(How|What|Which|Whether|So many)\b")
NAMES = frozenset({"one", "said", "told", "meant"})
EXCEPTIONS = {
    "docs/reference/commands.md": "generated from the servers' command tables",
    "tools/check_language.py": "contains the list of words",
}


def findings_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and what is wrong there."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            prose = line.partition("--")[2] if file.suffix == ".lua" else line
            yield from ((number, match[0].lower()) for match in WORDS.finditer(prose))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
            yield from (
                (token.start[0], match[0].lower()) for match in WORDS.finditer(token.string)
            )
    yield from names_of(ast.parse(text))


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield variables and functions with excluded names, and titles that are clauses."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name in NAMES:
                yield node.lineno, f"function `{name}`"
            case ast.Name(id=name, ctx=ast.Store()) if name in NAMES:
                yield node.lineno, f"variable `{name}`"
            case ast.arg(arg=name) if name in NAMES:
                yield node.lineno, f"parameter `{name}`"
            case _:
                pass
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and TITLE.match(ast.get_docstring(node) or ""):
            yield node.body[0].lineno, "docstring begins with a clause"


def files() -> list[Path]:
    """Return the files to check, as git lists them."""
    patterns = [f"{tree}/**" for tree in TREES] + list(PAGES)
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], check=True, capture_output=True, text=True
    ).stdout.split()
    return [
        Path(name)
        for name in listed
        if name.endswith((".py", ".lua", ".md"))
        and "/golden/" not in name
        and name not in EXCEPTIONS
        and Path(name).exists()
    ]


def group_of(file: Path) -> str:
    """Return the folder whose count a file belongs to."""
    depth = 3 if file.parts[0] == "loader" else 2
    return "/".join(file.parts[: min(depth, len(file.parts) - 1)]) or file.name


def main() -> int:
    """Report findings of folders that exceed their baseline; return the exit status."""
    found = {file: sorted(findings_of(file)) for file in files()}
    counts = Counter(dict.fromkeys(map(group_of, found), 0))
    for file, findings in found.items():
        counts[group_of(file)] += len(findings)
    present = {group: count for group, count in sorted(counts.items()) if count}
    if "--update" in sys.argv:
        BASELINE.write_text(json.dumps(present, indent=2) + "\n", encoding="utf-8")
        return 0
    allowed = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    worse = {group for group, count in present.items() if count > allowed.get(group, 0)}
    for file, findings in found.items():
        if group_of(file) in worse:
            for number, finding in findings:
                print(f"{file}:{number}: {finding}")
    for group in sorted(worse):
        print(f"{group}: {present[group]} findings, {allowed.get(group, 0)} allowed")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
