"""Unit tests of policies: cases are run on the reference evaluator and on real guards."""
