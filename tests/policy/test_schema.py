"""The JSON Schema of policy files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from keyleash.policy.model import AuditRules, Durability, Identity, TokenRules
from keyleash.policy.schema import json_schema
from keyleash.policy.settings import settings_of

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs/reference/policy.schema.json"


def test_published_schema_is_current() -> None:
    """Editors read the file; `make docs` writes it."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()


def test_example_policy_names_the_schema_that_a_command_writes() -> None:
    """The name works in a checkout and beside a copied example."""
    lines = (ROOT / "examples/agents.yaml").read_text(encoding="utf-8").splitlines()

    assert lines[0] == "# yaml-language-server: $schema=policy.schema.json"
    assert "keyleash schema > policy.schema.json" in lines[1]


QUANTITIES = {
    "Token.ttl": "0s",
    "Token.idle": "0h0m",
    "Durability.timeout": "0ms",
    "OnDenials.suspend": "0s",
    "BeforeImages.max_bytes": "0kb",
    "Rate.limit": "0/minute",
    "Budget.limit": "0/day",
}


def test_empty_collections_that_the_parser_rejects_are_invalid_by_the_schema() -> None:
    """An editor marks them while they are written."""
    schema = json_schema()
    fields = schema["properties"] | {
        name: field
        for shape in ("Identity", "Grant", "Deny")
        for name, field in schema["$defs"][shape]["properties"].items()
    }

    assert fields["identities"]["minProperties"] == 1
    for name in ("grants", "allow", "keys", "channels", "only"):
        assert fields[name]["minItems"] == 1
    for name in ("deny", "except"):
        assert "minItems" not in fields[name]


@pytest.mark.parametrize(("field", "zero"), QUANTITIES.items())
def test_zero_quantity_that_the_parser_rejects_is_invalid_by_the_schema(
    field: str, zero: str
) -> None:
    """The pattern needs a digit other than 0, and allows leading zeros as the parser does."""
    shape, name = field.split(".")
    pattern = json_schema()["$defs"][shape]["properties"][name]["pattern"]

    assert not re.search(pattern, zero)
    assert re.search(pattern, zero.replace("0", "010", 1))


def test_declared_settings_are_in_the_schema_with_help_example_and_default() -> None:
    """The schema of a section follows from the declarations in the model."""
    definitions: dict[str, Any] = json_schema()["$defs"]
    sections = {
        "Token": TokenRules,
        "Audit": AuditRules,
        "Durability": Durability,
        "Limits": Identity,
    }
    for name, model in sections.items():
        fields = definitions[name]["properties"]
        for setting in settings_of(model).values():
            if not setting.part_of:
                assert fields[setting.key]["description"] == setting.help
                assert fields[setting.key]["examples"]
    assert definitions["Token"]["properties"]["ttl"]["default"] == "12h"
    assert definitions["Audit"]["properties"]["before_images"]["default"] == "off"
    assert definitions["Durability"]["properties"]["timeout"]["default"] == "50ms"
    assert "default" not in definitions["Token"]["properties"]["idle"]
