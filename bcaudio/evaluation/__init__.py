"""Benchmarks: what a trained system is asked, how its answers are scored, and the report."""
