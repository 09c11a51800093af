"""The runner of the benchmarks and its measure."""
