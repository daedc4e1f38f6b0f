"""opflow and its peers on the same work: ``python -m benchmarks.suite --help``."""
