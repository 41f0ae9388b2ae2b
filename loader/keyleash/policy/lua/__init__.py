"""Read the Lua text of an approved script, and write it for the sandbox of a guard.

The text is written again from its tokens, so the server reads what was read here. Names that the
sandbox lacks are errors. Loops and functions count their rounds, and what a server's own strings
would do without a count goes through functions of the sandbox: `..`, methods, members, texts as
numbers, and keys.
"""

from keyleash.policy.lua.names import RESP3
from keyleash.policy.lua.parser import MAX_BYTES, Sandboxed, sandboxed
from keyleash.policy.lua.tokens import LuaError

__all__ = ["MAX_BYTES", "RESP3", "LuaError", "Sandboxed", "sandboxed"]
