"""The nearest point of a hyperplane within a box: project_hyperplane."""

from fastadv.reference.hyperplane import project_hyperplane  # noqa: F401
