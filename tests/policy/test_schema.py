"""The JSON Schema of policy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keyleash.policy.model import AuditRules, Durability, Identity, TokenRules
from keyleash.policy.schema import json_schema
from keyleash.policy.settings import settings_of

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs/reference/policy.schema.json"


def test_published_schema_is_current() -> None:
    """Editors read the file; `make docs` writes it."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()


def test_example_policy_names_the_published_schema() -> None:
    """An editor finds the schema from the first line of the example."""
    example = ROOT / "examples/agents.yaml"
    first = example.read_text(encoding="utf-8").partition("\n")[0]

    _, _, path = first.partition("# yaml-language-server: $schema=")

    assert (example.parent / path).resolve() == SCHEMA


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
