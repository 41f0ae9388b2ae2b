"""The incident report: activity, key histories, policies and tokens of a time range."""
