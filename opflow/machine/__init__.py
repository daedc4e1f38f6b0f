"""What products run on: arrays, threads, ranks, devices, files and costs.  Knows no operator."""
