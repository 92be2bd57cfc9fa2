"""Readers of evaluation sets in the layouts in which they are published; a recipe names them under `data`."""
