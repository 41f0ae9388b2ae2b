"""Packages that a guarded call does not need; only the packages above import them."""
