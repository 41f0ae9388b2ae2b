"""The classes of what `Operator` and `Policy` return, for annotations."""

from keyleash.addons.doctor.examine import Examination
from keyleash.addons.doctor.findings import DoctorFinding, Skipped
from keyleash.addons.export.run import Exported, ExportResult
from keyleash.addons.export.verify import ArchiveReport
from keyleash.addons.learn.backtest import Backtest, LimitHit, OutcomeRow
from keyleash.addons.learn.calls import Coverage, NotUnderstood
from keyleash.addons.learn.learn import Learned
from keyleash.addons.learn.needs import LearnedIdentity, LearnedLimit, LearnedRule
from keyleash.addons.learn.unused import Unused, UnusedRule
from keyleash.addons.policy_tests.run import TestReport
from keyleash.addons.report.html import HtmlReport
from keyleash.addons.status.identities import IdentityStatus, LimitUse, RecentDenials, TokenCount
from keyleash.addons.status.shards import ClusterStatus, LeasedLimit, ShardStatus
from keyleash.addons.status.snapshot import Snapshot
from keyleash.api.policy import PolicyCheck
from keyleash.audit.entries import AuditEntry, AuditEvent, Denial
from keyleash.audit.inspect import EventDetails, Timeline
from keyleash.audit.lookup import Gap, Restart
from keyleash.audit.operator_actions import ControlEvent
from keyleash.audit.point_in_time import ValueThen
from keyleash.audit.refused_scripts import RefusedScript, RefusedScripts
from keyleash.audit.stats import Stats, Tally
from keyleash.audit.token_use import TokenUse
from keyleash.audit.undo.apply import UndoResult
from keyleash.audit.undo.key_plans import UndoPlan
from keyleash.client.delegation import DelegatedToken
from keyleash.client.permission import Permission
from keyleash.client.renewal import Renewal
from keyleash.compiler import CompiledGuard
from keyleash.operator.abilities import Abilities
from keyleash.operator.credit import CreditCollection, ReturnedCredit
from keyleash.operator.decisions import Explanation
from keyleash.operator.limit_reset import LimitReset
from keyleash.operator.load.activate import LoadResult
from keyleash.operator.load.load_plan import LoadPlan
from keyleash.operator.roles import AclUser, Role
from keyleash.operator.server import ServerSummary
from keyleash.operator.suspension import FreezeResult, Frozen
from keyleash.operator.tokens.issue import IssuedToken
from keyleash.operator.tokens.list import TokenInfo, TokenTree
from keyleash.operator.tokens.revoke import Revocation, RevokedToken
from keyleash.operator.tokens.rotate import ReplacedToken, Rotation
from keyleash.policy.diff.compare import PolicyDiff
from keyleash.policy.lint import LintReport
from keyleash.policy.lint.findings import LintFinding
from keyleash.results import Change, NodeEffect
from keyleash.store.records import ActivePolicy
from keyleash.store.restrictions import Restrictions

__all__ = [
    "Abilities", "AclUser", "ActivePolicy", "ArchiveReport", "AuditEntry",
    "AuditEvent", "Backtest", "Change", "ClusterStatus", "CompiledGuard", "ControlEvent",
    "Coverage", "CreditCollection", "DelegatedToken", "Denial", "DoctorFinding", "EventDetails",
    "Examination", "Explanation", "ExportResult", "Exported",
    "FreezeResult", "Frozen", "Gap", "HtmlReport",
    "IdentityStatus", "IssuedToken", "Learned", "LearnedIdentity", "LearnedLimit", "LearnedRule",
    "LeasedLimit", "LimitHit", "LimitReset", "LimitUse", "LintFinding", "LintReport", "LoadPlan",
    "LoadResult", "NodeEffect", "NotUnderstood", "OutcomeRow", "Permission",
    "PolicyCheck", "PolicyDiff", "RecentDenials", "RefusedScript", "RefusedScripts", "Renewal",
    "ReplacedToken", "Restart", "Restrictions", "ReturnedCredit", "Revocation", "RevokedToken",
    "Role", "Rotation", "ServerSummary", "ShardStatus", "Skipped", "Snapshot", "Stats",
    "Tally", "TestReport", "Timeline", "TokenCount", "TokenInfo", "TokenTree", "TokenUse",
    "UndoPlan", "UndoResult", "Unused", "UnusedRule", "ValueThen",
]  # fmt: skip
