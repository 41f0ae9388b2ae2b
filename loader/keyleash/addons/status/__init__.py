"""A snapshot of a server and its identities, which `status` and metrics show."""
