"""Ways to move: gradient descent, flows, truncations."""
