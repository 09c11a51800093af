"""Datasets on disk: the layouts they are published in, read as they are, and the download of some."""
