"""Helpers of the tests, importable as `support.…`."""
