"""Diagnose a deployment: findings with remedies, and checks that were skipped."""

from keyleash.doctor.examine import CODES, Examination, examine, examine_nodes
from keyleash.doctor.findings import DoctorFinding, Severity, Skipped

__all__ = [
    "CODES",
    "DoctorFinding",
    "Examination",
    "Severity",
    "Skipped",
    "examine",
    "examine_nodes",
]
