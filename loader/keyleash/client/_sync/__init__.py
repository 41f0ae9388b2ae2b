"""Sync modules, generated from their asyncio sources by `make sync`: never edited."""
