"""Tokens of text and normal forms for scoring."""
