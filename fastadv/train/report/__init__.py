"""Results of a run: numbers, tables, plots, pages."""
