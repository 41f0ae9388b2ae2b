"""Diagnose a deployment: findings with remedies, and checks that were skipped."""
