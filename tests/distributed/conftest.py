#: programs that ranks run, which need MPI to be imported
collect_ignore = ["groups.py", "observing.py", "products.py", "spectral.py", "training.py"]
