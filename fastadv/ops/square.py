"""What Square Attack proposes: square_propose."""

from fastadv.reference.square import bump, square_propose  # noqa: F401
