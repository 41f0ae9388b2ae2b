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


def test_declared_settings_are_in_the_schema_with_help_and_example() -> None:
    """A declaration in the model is all that the schema needs."""
    definitions: dict[str, Any] = json_schema()["$defs"]
    sections = {
        "TokenShape": TokenRules,
        "AuditShape": AuditRules,
        "DurabilityShape": Durability,
        "LimitsShape": Identity,
    }
    for name, model in sections.items():
        fields = definitions[name]["properties"]
        for setting in settings_of(model).values():
            if not setting.part_of:
                assert fields[setting.key]["description"] == setting.help
                assert fields[setting.key]["examples"]
