"""Keep guards loaded on every server of a deployment, and report drift."""
