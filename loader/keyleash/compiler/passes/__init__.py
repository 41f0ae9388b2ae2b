"""The passes, in order. Each is a pure function from a guard to a fuller guard.

The comments say where the order matters.
"""

from __future__ import annotations

from collections.abc import Callable

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.compiler.passes.bound_values import bound_values
from keyleash.compiler.passes.form_rules import form_rules
from keyleash.compiler.passes.lay_out_state import lay_out_state
from keyleash.compiler.passes.order_dispatch import order_dispatch
from keyleash.compiler.passes.plan_audit import plan_audit
from keyleash.compiler.passes.plan_limits import plan_limits
from keyleash.compiler.passes.plan_patterns import plan_patterns
from keyleash.compiler.passes.postpone_denial import postpone_denial
from keyleash.compiler.passes.protect_control_keys import protect_control_keys
from keyleash.compiler.passes.select_commands import select_commands
from keyleash.compiler.passes.translate_patterns import translate_patterns

Pass = Callable[[Guard, CommandTable], Guard]

PASSES: tuple[Pass, ...] = (
    select_commands,
    translate_patterns,
    protect_control_keys,  # adds to the deny matchers that translate_patterns made
    postpone_denial,  # looks at the same patterns
    plan_audit,  # looks at the matchers of translate_patterns
    bound_values,  # likewise
    plan_patterns,  # likewise
    form_rules,  # joins the usages of select_commands with the matchers
    order_dispatch,  # needs the rules' numbers
    lay_out_state,
    plan_limits,  # needs each limit's place in the state
)
