"""Load a policy: compile, plan, stage, activate, verify."""
