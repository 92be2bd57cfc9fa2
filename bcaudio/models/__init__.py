"""Whole models in plain torch (transformers for the language model)."""
