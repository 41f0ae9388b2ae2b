"""Recorded calls, and the policies that allow what they show."""
