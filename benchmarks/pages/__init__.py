"""What is generated from the results: pages, tables, plots."""
