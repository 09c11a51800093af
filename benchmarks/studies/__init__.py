"""Single questions, a script each."""
