"""What the trainer stands on: files, processes, seeds, time."""
