"""Training: schedule, options, compiled steps, snapshots, resuming, several processes."""
