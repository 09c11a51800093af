"""The attacks, one a file under its public name."""
