"""Archives of audit streams on disk: export without loss, and verification."""
