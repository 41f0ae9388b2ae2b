"""Tests of a policy: what a file of cases says, what the model says, and what real guards say."""
