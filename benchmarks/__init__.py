"""Throughway measured side by side with its peers. Run it with ``python -m benchmarks``; see README.md."""
