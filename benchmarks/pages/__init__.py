"""Generated from the results: pages, tables, plots."""
