"""Diagnose a deployment: findings with remedies, and checks that were skipped."""

from keyleash.doctor.config import accepted_findings
from keyleash.doctor.examine import Examination, examine
from keyleash.doctor.findings import CODES, DoctorFinding, Severity, Skipped

__all__ = [
    "CODES",
    "DoctorFinding",
    "Examination",
    "Severity",
    "Skipped",
    "accepted_findings",
    "examine",
]
