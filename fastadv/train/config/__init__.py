"""The configuration of a run: recipes, flags, methods and their options."""
