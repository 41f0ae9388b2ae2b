"""docs/reference/scripts.md: the names that an approved script may use."""

from __future__ import annotations

import re
from pathlib import Path

from keyleash.policy.lua import FUNCTIONS, LIBRARIES
from support.leash import Leash
from support.scripted import scripted
from support.servers import RealServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "scripts.md"
ROW = re.compile(r"^\| (?:`(\w+)`|functions) \| (`.*`) \|$", re.MULTILINE)


def test_page_lists_every_name_that_a_script_may_use() -> None:
    """As the compiler accepts them."""
    (section,) = re.findall(r"^## What a script may use\n(.*?)^## ", PAGE.read_text(), re.M | re.S)
    listed = {name: set(re.findall(r"`(\w+)`", names)) for name, names in ROW.findall(section)}
    assert listed == {**LIBRARIES, "": FUNCTIONS}


def test_guard_has_every_name_that_a_script_may_use(server: RealServer) -> None:
    """And no library of the guard lacks one."""
    names = [f"{library}.{name}" for library, members in LIBRARIES.items() for name in members]
    names += FUNCTIONS
    parts = [f"if {name} == nil then missing[#missing + 1] = '{name}' end" for name in names]
    text = f"local missing = {{}} {' '.join(parts)} return missing"
    assert scripted(Leash(server), text).eval(text, 0) == []
