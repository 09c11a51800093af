"""The ground of the trainer: files, processes, seeds, time."""
