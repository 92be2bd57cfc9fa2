"""Steps of data preparation, one per file."""
