"""Corpora, one per file: each lists utterances."""
