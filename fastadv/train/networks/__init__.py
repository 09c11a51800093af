"""The trainer's own networks, one file a family. Each has ``with_features``; see fastadv.distill.Features."""
