"""Side-by-side measurements of fastadv against what people use now: ``python -m benchmarks``."""
