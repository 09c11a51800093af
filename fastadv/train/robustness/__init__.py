"""Accuracy of a network under attack: `fastadv attack`."""
