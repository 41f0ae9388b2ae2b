"""Whether the trail can take the event of a call, where nothing is trimmed before its export."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.spec import Needs, OptionKey
from keyleash.decision.state import ModelState
from keyleash.decision.trace import RoomStep, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Identity


def judge_room(
    identity: Identity,
    spec: CommandSpec,
    needs: Needs,
    keys: Sequence[bytes],
    state: ModelState,
    trace: Trace,
) -> Decision:
    """Refuse a call that would be recorded when there is no room."""
    hard_max = identity.audit.hard_max
    if not state.is_full or hard_max is None or not is_recorded(identity, spec, needs, keys):
        return ALLOWED
    trace.append(RoomStep(code=ReplyCode.AUDIT_FULL))
    return refused(ReplyCode.AUDIT_FULL, events=hard_max)


def is_recorded(identity: Identity, spec: CommandSpec, needs: Needs, keys: Sequence[bytes]) -> bool:
    """Return whether the call has an event: it changes data, or it reads and reads are recorded."""
    is_read = OperationClass.READ in needs or spec.scans or bool(keys)
    return changes(spec, needs) or (identity.audit.reads and is_read)


def changes(spec: CommandSpec, needs: Needs) -> bool:
    """Whether a call changes something: a BITFIELD that only reads does not, nor does SORT."""
    is_optional = spec.name == "BITFIELD" or any(isinstance(one, OptionKey) for one in spec.keys)
    return spec.mutates and not (is_optional and needs == (OperationClass.READ,))
