"""Looking a deployment over: what is wrong, what to do about it, and what could not be seen."""

from keyleash.doctor.codes import CODES, UnknownCodeError
from keyleash.doctor.examine import Examination, examine
from keyleash.doctor.finding import Finding, Severity, Skipped

__all__ = ["CODES", "Examination", "Finding", "Severity", "Skipped", "UnknownCodeError", "examine"]
