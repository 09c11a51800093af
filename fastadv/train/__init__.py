"""The reference trainer: datasets, networks, training, report, command line."""
