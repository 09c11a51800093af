"""What a run found: results, tables, plots, reports."""
