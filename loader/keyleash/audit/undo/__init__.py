"""Undo recorded changes: plan the restoration of keys, and apply it atomically."""
