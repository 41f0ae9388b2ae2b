"""Shared parts of the benchmarks: servers, a load generator, samples and reports."""
