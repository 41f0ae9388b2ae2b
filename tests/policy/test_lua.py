"""The texts of approved scripts: read, checked, and written for the sandbox."""

from __future__ import annotations

import random
import re

import pytest
from lupa import lua51

from keyleash.policy.lua import MAX_BYTES, LuaError, sandboxed
from keyleash.policy.lua.names import OWN
from keyleash.policy.lua.reader import MAX_LOCALS

PRELUDE = """
local function base(item) return type(item) == 'string' and string or item end
return function(text)
  local run = assert(loadstring(
    'local __t, __v, __c, __m, __b, __l, __n, __k, redis, KEYS, ARGV = ... ' .. text))
  local function join(...) return table.concat({ ... }) end
  local function method(item, name, ...) return base(item)[name](item, ...) end
  local redis = { call = function(...) return table.concat({ ... }, ' ') end }
  redis.pcall = redis.call
  local function pass(...) return ... end
  local function one(item) return item end
  local keys, argv = { 'k1', 'k2' }, { '7', 'b' }
  return run(function() end, pass, join, method, base, pass, one, one, redis, keys, argv)
end
"""


def run(text: str) -> object:
    """Run a text in plain Lua, with stubs of what a guard puts around it."""
    lua = lua51.LuaRuntime(encoding="latin-1")
    found = lua.execute(PRELUDE)(text)
    return list(found.values()) if lua51.lua_type(found) == "table" else found


SAME = {
    "precedence": "return 2 ^ -3 ^ 2 * -4 .. 'x' .. 1 + 2 .. (not nil == true and 'y' or 'z')",
    "unary": "return - - 5 - -2 * #'abc' % 2",
    "texts as numbers": "local s, f, t = '2', function() return '3', 4 end, {n = '5'}"
    " local function g(...) return ... * 2 + -... ^ 2 end"
    " for i = s, '6', (f()) do t[i + 0] = -s end"
    " return {s + 1 .. s, -s ^ f() % t.n, - -s, s * (s .. 0), 1 - -#s + f(), g(s, 7), t[2], t[5],"
    " s - s - s < 3 - s, not s == (s + 1 > 2), 2 ^ s ^ '3', (s and '4') / s}",
    "keys": "local function f() return 1, 2 end local t, u = {}, {{}}"
    " t[f()], u[1][t[1] or 2], t['x'] = 3, 4, 5 t[u[1][2] - 1], t[0.5] = 6, {[f()] = 7, [2] = 8}"
    " return {t[1], t.x, t[3], t[0.5][1], t[0.5][2]}",
    "comparison of joined texts": "return tostring('a' .. 'b' < 'a' .. 'c' == true)",
    "comparisons": "local a, b, n = 'a', 'b', 0 local function f() n = n + 1 return n end"
    " return {tostring(a < b), tostring(a >= b), tostring(f() < f()), tostring(f() > f()),"
    " tostring(#a <= 1 and not (b < a) == (1 < 2)), tostring(a .. 'x' < 1 .. a)}",
    "a statement in parentheses": "local t = {} for i = 1, 2 do (t or {})[i] = i end"
    " (function(...) (t or {})[3] = ... end)(3) return t".replace(" (function", "; (function"),
    "brackets behind a loop": "local t = {}"
    " local function f() return function() t[#t + 1] = 1 end end"
    " for i = 1, 2 do (f)()() end repeat (f)()() until #t > 3"
    " local function g(...) local a = 'x' .. ... (f)()() local b = ... (f)()() return #t end"
    " return g(1)",
    "escapes": r"""return '\a\65\0659\\\'\"\x\
\z' .. "a'b" .. '\t\n\0end'""",
    "long text": "return [==[\nfirst ]] ]=]\nsecond]==] .. [[\\n]]",
    "comments": "--[==[ if ]] ]==] return --[[ 2 ]] 1 -- 3\n",
    "numbers": "return 0x1F + .5 + 3. + 1e-2 + 0xA",
    "tables": "local t = {1, 2; x = 3, ['y z'] = {4}, (function() return 5, 6 end)()}"
    " return {t[1], t.x, t['y z'][1], t[3], t[4], #t}",
    "methods": "local s = 'a,b,c' return {s:upper(), (s:gsub(',', ';')), s:find ',', #s:rep(3)}",
    "members of texts": "local s, name = 'abc', 'len' return {s.len(s), s[name](s)}",
    "varargs": "local function f(...) local a, b = ... return select('#', ...), b, ..., {...} end"
    " local n, b, c = f(1, 2, 3) return {n, b, c}",
    "for": "local s = 0 for i = 10, 1, -3 do s = s + i end"
    " for k, v in pairs({a = 1, b = 2}) do s = s + v end return s",
    "repeat sees its locals": "local n = 0 repeat local done = n > 3 n = n + 1 until done return n",
    "while and break": "local n = 0 while true do n = n + 1 if n > 5 then break end end return n",
    "nested functions": "local function a(n) if n == 0 then return 0 end return 1 + a(n - 1) end"
    " local t = {} function t.f.g() end return a(4)".replace("function t.f.g() end", ""),
    "method definitions": "local t = {n = 1} function t:add(m) self.n = self.n + m return self end"
    " return t:add(2):add(3).n",
    "calls without parentheses": "local function f(x) return x end return f'a' .. f\"b\" .. #f{1}",
    "multiple assignment": "local a, b, t = 1, 2, {} a, t.x, t['y'] = b, a, 9 return {a, t.x, t.y}",
    "commands": "return redis.call('GET', KEYS[1]) .. redis.pcall('SET', KEYS[2], ARGV[1] + 1)",
    "functions of later versions": "return {(table.unpack or unpack)({1, 2})}",
    "goto is a name": "local goto = 4 return goto",
    "a line for the server": "#!lua name=x\nreturn 1",
    "semicolons": "local a = 1; local b = 2; return a + b;",
    "shadowed libraries": "local string = {rep = function() return 'own' end} return string.rep()",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_text_for_the_sandbox_does_what_the_text_does(text: str) -> None:
    """The server reads what was written from tokens, so every token has to survive."""
    plain = text.partition("\n")[2] if text.startswith("#!") else text

    assert run(sandboxed(text.encode("latin-1")).body) == run(plain)


BAD = {
    "end": ("script-syntax", 1, 1),
    "#!lua flags=no-write\n": ("script-syntax", 1, 1),
    "#!lua flags=no-writes,,x flags=\n": ("script-syntax", 1, 1),
    "#!js flags=no-writes\n": ("script-syntax", 1, 1),
    "#!lua flags=no-writes": ("script-syntax", 1, 1),
    "return 1\nend": ("script-syntax", 2, 1),
    "if x then": ("script-unknown-global", 1, 4),
    "return 1 return 2": ("script-syntax", 1, 10),
    "break": ("script-syntax", 1, 1),
    "while true do local function f() break end end": ("script-syntax", 1, 34),
    "return 'a": ("script-syntax", 1, 8),
    "return [[a": ("script-syntax", 1, 8),
    "--[[ open": ("script-syntax", 1, 1),
    "return 3x": ("script-syntax", 1, 8),
    "return '\\300'": ("script-syntax", 1, 8),
    "local a <const> = 1": ("script-syntax", 1, 9),
    "local a = 1 // 2": ("script-syntax", 1, 14),
    "return 1 & 2": ("script-syntax", 1, 10),
    "return ...": ("script-syntax", 1, 8),
    "local a = {} a\n(1)": ("script-syntax", 2, 1),
    "(KEYS) = 1": ("script-syntax", 1, 8),
    "local a a, a() = 1, 2": ("script-syntax", 1, 16),
    "KEYS[1]": ("script-syntax", 1, 8),
    "x = 1": ("script-unknown-global", 1, 1),
    "function f() end": ("script-unknown-global", 1, 10),
    "function KEYS() end": ("script-unknown-global", 1, 10),
    "return {} .. \0": ("script-syntax", 1, 14),
    "return string.dump": ("script-unknown-global", 1, 15),
    "return redis.set_repl": ("script-unknown-global", 1, 14),
    "local __t = 1": ("script-unknown-global", 1, 7),
    "return __c": ("script-unknown-global", 1, 8),
    "return " + "(" * 100 + "1" + ")" * 100: ("script-too-complex", 1, 57),
    "local a = {} return a" + ".len" * 120: ("script-too-complex", 1, 410),
    "\n".join(f"local a{n}" for n in range(MAX_LOCALS + 1)): ("script-too-complex", 121, 7),
    "local a\n" * (MAX_LOCALS + 1): ("script-too-complex", 121, 7),
    "return type(" + "1,\n" * 250 + "1)": ("script-too-complex", 231, 1),
    "return " + "1,\n" * 250 + "1": ("script-too-complex", 232, 1),
    "return KEYS:x(" + "1,\n" * 250 + "1)": ("script-too-complex", 228, 1),
    "return redis.call('MSET'" + ",\n1" * 250 + ")": ("script-too-complex", 231, 1),
    "return 1 " + "..\n1 " * 250: ("script-too-complex", 231, 1),
    "return " + ("{" + "1,\n" * 49) * 5: ("script-too-complex", 217, 1),
    "KEYS[1]" + ",\nKEYS[1]" * 90 + " = 1": ("script-too-complex", 91, 9),
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_text_with_a_problem_is_denied_at_its_place(text: str) -> None:
    """Line and column are those of the text, from 1."""
    with pytest.raises(LuaError) as caught:
        sandboxed(text.encode())

    assert (caught.value.code, caught.value.line, caught.value.column) == BAD[text]


@pytest.mark.parametrize(
    "name",
    [
        *("_G", "_VERSION", "server", "loadstring", "load", "loadfile", "dofile", "getfenv"),
        *("setfenv", "getmetatable", "setmetatable", "rawget", "rawset", "newproxy", "coroutine"),
        *("debug", "collectgarbage", "xpcall", "module", "require", "package", "os", "io", "print"),
    ],
)
def test_global_that_the_sandbox_lacks_is_denied(name: str) -> None:
    """Whatever else a server's Lua has."""
    for text in (f"return {name}", f"local a = {{{name}}}", f"(function() {name}.x = 1 end)()"):
        with pytest.raises(LuaError, match=f"no global `{name}`"):
            sandboxed(text.encode())


def test_longer_body_counts_more_in_each_round() -> None:
    """Statements, tables and functions of a loop, its condition, and the body of a function."""

    def units(text: str) -> int:
        found = re.search(r"__t\((\d+)\)", sandboxed(text.encode()).body)
        assert found is not None
        return int(found[1])

    assert units("for i = 1, 9 do end") == 1
    for text in (
        f"local n = 0 for i = 1, 9 do {'n = n + 1 ' * 1000} end",
        f"local t for i = 1, 9 do t = {{{'{},' * 1000}}} end",
        f"local n = 0 while {'n == 0 and ' * 1000} n do end",
        f"local n = 0 repeat until {'n == 0 and ' * 1000} n",
        f"local n = 0 local function f(...) {'n = n + 1 ' * 1000} end f()",
    ):
        assert units(text) > 200


def test_text_that_is_too_large_is_denied() -> None:
    with pytest.raises(LuaError, match="more than 65536"):
        sandboxed(b" " * (MAX_BYTES + 1))


def test_function_with_too_many_variables_of_others_is_denied() -> None:
    """Lua has 60 of them; the server would deny the guard without a place."""
    names = [f"a{n}" for n in range(51)]
    texts = [f"local {name}" for name in names]
    with pytest.raises(LuaError, match="more than 50 variables of others"):
        sandboxed(
            f"{chr(10).join(texts)}\nreturn function() return {{{','.join(names)}}} end".encode()
        )


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("redis.call('get', KEYS[1]) redis.pcall([[DEL]], KEYS[1])", {"GET", "DEL"}),
        ("return 1", set()),
        ("redis.call(ARGV[1], KEYS[1])", None),
        ("redis.call('ge' .. 't', KEYS[1])", None),
        ("local call = redis.call call('get', 'x')", {"GET"}),
        (
            "local call = redis.pcall; local function f() return call('keys', '*') end",
            {"KEYS", "SCAN"},
        ),
        ("local call = redis.call call(ARGV[1], 'x')", None),
        ("local call = redis.call local other = call other('get', 'x')", None),
        ("local call = redis.call local f = {call}", None),
        ("local call = redis.call call = tostring", None),
        ("local call = redis.call pcall(call, 'get', 'x')", None),
        ("local call = redis.call('get', 'x') call(ARGV[1])", {"GET"}),
        ("local call, other = redis.call, 1 call('get', 'x')", None),
        ("local call call = redis.call call('get', 'x')", None),
        ("local call = redis.call or 1 call('get', 'x')", None),
        ("local r = redis r.call('get', 'x')", None),
        ("redis['call']('get', 'x')", None),
        ("redis.call('get', KEYS[1]) local redis = {} redis.call('set')", {"GET"}),
    ],
)
def test_commands_of_a_text_are_known_if_their_names_are_texts(
    text: str, commands: set[str] | None
) -> None:
    """The guard of scripts has the rules of these alone, and counts what they may do."""
    assert sandboxed(text.encode()).commands == commands


def test_calls_of_a_text_have_the_place_of_the_first() -> None:
    """So that a finding about a command can point to it."""
    text = b"redis.call('get', KEYS[1])\nredis.setresp(3) redis.setresp(2) redis.pcall('GET', 'x')"
    assert sandboxed(text).places == (("GET", 1, 12), ("redis.setresp(3)", 2, 7))


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("redis.call('GET', KEYS[1])", ()),
        ("redis.call('GET', KEYS[1] .. ':x')", ((1, 19),)),
        ("local k = 'a' .. KEYS[1]\nredis.call('SET', k, 1)", ((2, 19),)),
        ("redis.call('SET', KEYS[1], 'a' .. ARGV[1])", ()),
    ],
)
def test_names_of_keys_that_are_put_together_are_found(
    text: str, places: tuple[tuple[int, int], ...]
) -> None:
    """They are not declared, so the policy has to grant keys that no caller names."""
    assert sandboxed(text.encode()).built_keys == places


@pytest.mark.slow
def test_text_that_is_read_is_within_the_limits_of_the_compiler() -> None:
    """Long lists, many variables and deep nesting: a server never denies what `check` accepts."""
    rng, lua = random.Random(3), lua51.LuaRuntime(encoding="latin-1")
    error_of = lua.eval("function(text) return select(2, loadstring(text)) end")
    read = denied = 0
    for _ in range(1500):
        text = f"local a, t = 1, {{}} {large_statement(rng, 4)} return {large_expression(rng, 5)}"
        try:
            body = sandboxed(text.encode()).body
        except LuaError:
            denied += 1
            continue
        read += 1
        written = f"local {','.join(OWN)}\nreturn function()\n{body}\nend"
        assert error_of(written) is None
    assert min(read, denied) > 100


def large_expression(rng: random.Random, depth: int) -> str:
    """Return an expression that may need many registers."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["1", "'s'", "a", "t"])
    count = rng.choice([1, 2, rng.randrange(60), rng.randrange(260)])
    parts = [f"({large_expression(rng, depth - 1)})" for _ in range(min(count, 3))]
    parts += ["a"] * (count - len(parts))
    rng.shuffle(parts)
    made = [
        f"{{{','.join(parts)}}}",
        f"type({','.join(parts)})",
        f"a:m({','.join(parts)})",
        f"redis.call('GET',{','.join(parts or ['a'])})",
        " .. ".join(parts or ["a"]),
        " ^ ".join([*parts[:90], "a"]),
        "t" + "".join(f"[{part}]" for part in parts[:90]),
        f"function(...) {large_statement(rng, depth - 1)} end",
    ]
    return rng.choice(made)


def large_statement(rng: random.Random, depth: int) -> str:
    """Return a statement that may need many registers."""
    names = ",".join(f"a{n}" for n in range(rng.choice([1, 2, 30, 100])))
    if depth == 0:
        return f"local {names}"
    value, body = large_expression(rng, depth - 1), large_statement(rng, depth - 1)
    made = [
        f"local {names} = {value} {body}",
        f"do local {names} = {value} {body} end",
        f"for k, v in pairs(t) do {body} end",
        f"for i = 1, {value} do {body} end",
        f"repeat {body} until {value}",
        f"if {value} then {body} else {body} end",
        f"t[1]{',t[a]' * rng.choice([1, 100])} = {value}",
    ]
    return rng.choice(made)


def test_damaged_text_is_read_or_denied_and_nothing_else() -> None:
    """A damaged text is denied, or is the body of one function in legal Lua."""
    rng, lua = random.Random(7), lua51.LuaRuntime(encoding="latin-1")
    check = lua.eval("function(text) return loadstring(text) ~= nil end")
    sources = list(SAME.values())
    read = 0
    for _ in range(3000):
        text = list(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 3)] = rng.choice(
                ["", "end", " ", "(", ")", "]]", "'", '"', "--", "\n", "..", "=", "function", "{"]
            )
        try:
            body = sandboxed("".join(text).encode("latin-1")).body
        except LuaError:
            continue
        read += 1
        assert body.isascii()
        assert check(f"return function({','.join(OWN)})\n{body}\nend"), "".join(text)
    assert read > 100
