"""Samples, shards, tasks, sequences and batches: from a shard on disk to what a model eats."""
