"""What a run leaves on disk: checkpoints, trajectories, logs."""
