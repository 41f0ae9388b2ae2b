"""The reference evaluator: what a guard decides, written from the design and not from the Lua.

The order is fixed: command and class → declared keys → deny and grants per key → limits. All
limits are checked before any is charged, so a denied call changes nothing. The evaluator does not
use the compiler, so that guards can be compared with it.
"""
