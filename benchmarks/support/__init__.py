"""What the benchmarks share: servers of their own, a load generator, samples and their report."""
