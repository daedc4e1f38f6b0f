"""Where the eigenvalues lie."""
