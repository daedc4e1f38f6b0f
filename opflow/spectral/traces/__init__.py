"""Numbers of operators: traces, norms, ranks."""
