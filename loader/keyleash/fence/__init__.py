"""ACL users for agents, generated from the policy.

A guard runs with the rights of its caller, so its agent needs these rights, too. A fenced agent
cannot leave the keys and commands of its grants, load code or list keys. It can run single commands
on its own keys without audit and limits, and change its own counters and audit records, because the
guard must be able to; see docs/how-to/fence.md.
"""
