"""Behind `keyleash.testing`: fixtures for pytest, and a fake Redis that runs guards."""
