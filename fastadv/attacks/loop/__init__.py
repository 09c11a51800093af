"""The loop that attacks run, and what goes into it: arguments, ball and noise, the objective, rows of a batch."""
