"""The audit log: events of identities, their denials, and operator actions."""
