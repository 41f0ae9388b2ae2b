"""What stands on the rest: only `api`, `cli`, `testing` and `types` import it."""
