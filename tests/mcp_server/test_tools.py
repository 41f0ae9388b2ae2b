"""The lists of tools: by identity, in few tokens, with honest hints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyleash.addons.mcp.forms import FORMS, form_of, is_usable, tool_name
from keyleash.addons.mcp.tools import Access
from keyleash.commands import known_table, load_table
from keyleash.commands.keys import keys_of
from keyleash.policy import parse_policy
from mcp_server.conftest import EXAMPLE
from support.golden import GOLDEN, assert_golden
from support.leash import grant, policy, with_files

TABLE = load_table()
POLICY = parse_policy(EXAMPLE, file="agents.yaml", commands=TABLE)


def access(document: str, identity: str = "one", **options: Any) -> Access:
    """Return the access of the tokens of an identity."""
    found = parse_policy(document, file="p.yaml", commands=known_table())
    item = next(item for item in found.identities if item.name == identity)
    deny = [key for rule in item.deny for key in rule.keys]
    return Access(item.grants, deny, known_table(), **options)


def dumped(access: Access) -> list[dict[str, Any]]:
    """Return the tools as they are sent."""
    return [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in access.tools()
    ]


def tokens(text: str) -> int:
    import bpe_openai  # takes a second

    return len(bpe_openai.get_encoding("o200k_base").encode(text))


def cost(tools: list[dict[str, Any]]) -> int:
    """Return the tokens of what a model gets of tools: name, description and parameters."""
    names = {"name": "name", "description": "description", "parameters": "inputSchema"}
    parts = [{name: tool[field] for name, field in names.items()} for tool in tools]
    return tokens(json.dumps(parts, separators=(",", ":"), ensure_ascii=False))


@pytest.mark.parametrize("by_class", [False, True], ids=["named", "class"])
@pytest.mark.parametrize("identity", [item.name for item in POLICY.identities])
def test_each_identity_of_the_examples_has_its_list(identity: str, by_class: bool) -> None:
    """Names, descriptions, schemas and hints are pinned, with the tokens that they cost."""
    tools = dumped(access(EXAMPLE, identity, by_class=by_class))
    lines = [f"{len(tools)} tools, {cost(tools)} tokens"]
    for tool in tools:
        hints = [name.removesuffix("Hint") for name, value in tool["annotations"].items() if value]
        lines += ["", f"{tool['name']} ({', '.join(hints) or 'none'})", f"  {tool['description']}"]
        lines.append(f"  {json.dumps(tool['inputSchema'])}")
    name = f"{identity}.{'class' if by_class else 'named'}.txt"
    assert_golden(GOLDEN / "mcp" / name, "\n".join(lines) + "\n")


def test_definitions_cost_few_tokens() -> None:
    """At most 2,000 for `agent-runner`, and 500 by class, whatever is sent counted."""
    assert cost(dumped(access(EXAMPLE, "agent-runner"))) <= 2000
    by_class = dumped(access(EXAMPLE, "agent-runner", by_class=True))
    assert tokens(json.dumps(by_class, separators=(",", ":"))) <= 500


def test_the_order_of_grants_changes_no_list() -> None:
    """Names and order of tools depend on what is granted alone."""
    grants = [grant("read", keys="a:*", only=["ZCARD", "GET"]), grant("write", keys="b:*")]
    lists = [access(policy(one={"grants": order})).tools() for order in (grants, grants[::-1])]
    first, second = ([tool.name for tool in tools] for tools in lists)
    assert first == second


def test_long_patterns_are_cut_in_descriptions() -> None:
    """A description has at most 200 characters, whatever the policy says."""
    keys = [f"a:very:long:pattern:{number}:*" for number in range(40)]
    for tool in access(policy(one={"grants": [grant("read", "write", keys=keys)]})).tools():
        assert len(tool.description or "") <= 200


def test_commands_that_a_grant_names_are_tools_of_their_own() -> None:
    """`only` lists what an agent is for; the table has the arguments of the others."""
    names = ["GETDEL", "ZUNION", "XGROUP CREATE"]
    grants = [grant("read", "write", "delete", keys="a:*", only=names)]
    tools = {tool.name: tool for tool in access(policy(one={"grants": grants})).tools()}
    assert [*tools] == ["getdel", "xgroup_create", "zunion", "batch", "whoami"]
    assert [*tools["zunion"].input_schema["properties"]] == ["keys", "arguments"]


def test_an_approved_script_is_a_tool_by_its_name() -> None:
    """A name that a command has is avoided; a script says on which keys it may run."""
    names = ("tidy", "get")
    grants = [{**grant("read", keys="a:*"), "scripts": [*names, "redis-py-lock"]}]
    document = json.loads(policy(one={"grants": grants}))
    document["scripts"] = {name: {"file": f"{name}.lua"} for name in names}
    files = {f"{name}.lua": "return redis.call('GET', KEYS[1])" for name in names}
    tools = {tool.name: tool for tool in access(with_files(json.dumps(document), files)).tools()}
    assert {"tidy", "script_get", "get"} <= tools.keys()
    assert "a:*" in (tools["tidy"].description or "")


def test_scripts_with_like_names_are_tools_each() -> None:
    """A digest of the name distinguishes names that are the same or too long as tools."""
    names = ("get", "script_get", "a.b", "a_b", "x" * 63 + "a", "x" * 63 + "b")
    document = json.loads(policy(one={"grants": [{**grant("read", keys="a:*"), "scripts": names}]}))
    document["scripts"] = {name: {"file": f"{name}.lua"} for name in names}
    files = {f"{name}.lua": f"return redis.call('GET', KEYS[1]) -- {name}" for name in names}
    scripts = access(with_files(json.dumps(document), files)).scripts
    assert len(scripts) == len({digest for digest, _ in scripts.values()}) == len(names)
    assert max(map(len, scripts)) <= 60


def test_a_token_that_only_reads_is_shown_no_writes() -> None:
    """SORT and the like have reading forms, which are no reason for a tool that writes."""
    for by_class in (False, True):
        tools = access(
            policy(one={"grants": [grant("read", keys="a:*")]}), by_class=by_class
        ).tools()
        assert {"read", "batch"} <= {tool.name for tool in tools}
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
    only = grant("write", keys="a:*", only=["APPEND"])
    write = access(policy(one={"grants": [only]}), by_class=True).tools()[0]
    assert '["APPEND", …]' in (write.description or "")


def test_hidden_grants_leave_the_tools_of_classes() -> None:
    """A policy that publishes no grants lists nothing of them."""
    names = [tool.name for tool in Access(None, (), TABLE).tools()]
    assert names == ["publish", "read", "write", "delete", "batch", "whoami"]


def test_hints_are_those_of_the_commands() -> None:
    """Adding to a collection destroys nothing; writing over a value does."""
    every = grant("read", "write", "delete", keys="a:*")
    channel = {"allow": ["publish"], "channels": ["c"]}
    tools = {tool.name: tool for tool in access(policy(one={"grants": [every, channel]})).tools()}
    hints = {name: tool.annotations for name, tool in tools.items() if tool.annotations}
    destructive = {name for name, hint in hints.items() if hint.destructive_hint}
    assert {"set", "hset", "del", "write", "batch"} <= destructive
    assert destructive.isdisjoint({"sadd", "xadd", "rpush", "publish", "get", "read", "whoami"})
    idempotent = {name for name, hint in hints.items() if hint.idempotent_hint}
    assert {"set", "hset", "sadd", "get"} <= idempotent
    assert idempotent.isdisjoint({"incrby", "rpush", "xadd", "lpop", "write", "batch"})


SAMPLES = {"string": "k", "integer": 1, "number": 1.5, "boolean": True}


def sample(schema: dict[str, Any]) -> Any:
    """A value that fits a schema; keys are `k`, texts that may be bytes `1`."""
    kind = schema["type"]
    if kind == "array":
        return [sample(schema["items"])] * 2
    return {"f": "v"} if kind == "object" else "1" if isinstance(kind, list) else SAMPLES[kind]


def test_arguments_become_words_of_the_one_command() -> None:
    """The keys of a call are those that its arguments name, and nothing else is one."""
    usable = [*filter(is_usable, known_table())]
    for spec in usable:
        form = form_of(spec)
        schema = form.schema["properties"]
        given = {name: sample(item) for name, item in schema.items() if name != "nx"}
        name, *rest = (
            word.encode() if isinstance(word, str) else word for word in form.call(given)
        )
        assert name.decode() == spec.name
        named = [*given.get("keys", ()), *([given["key"]] if "key" in given else ())]
        if named:
            keys = {use.key.decode() for use in keys_of(spec, [*name.split(b" "), *rest])}
            assert keys <= {*named} or spec.keys[-1].kind in ("option", "numbered"), spec.name
    assert len({tool_name(spec.name) for spec in usable}) == len(usable)
    assert {*FORMS} <= {*known_table().commands}
