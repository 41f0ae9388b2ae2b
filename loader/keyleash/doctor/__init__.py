"""Looking a deployment over: what is wrong, what to do about it, and what could not be seen."""

from keyleash.doctor.examine import CODES, Examination, examine
from keyleash.doctor.findings import DoctorFinding, Severity, Skipped

__all__ = [
    "CODES",
    "DoctorFinding",
    "Examination",
    "Severity",
    "Skipped",
    "examine",
]
