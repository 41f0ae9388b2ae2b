"""Render results as text and JSON."""
