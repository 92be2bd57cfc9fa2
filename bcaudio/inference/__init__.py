"""Generation with trained models."""
