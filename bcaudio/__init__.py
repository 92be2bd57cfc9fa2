"""Training, data preparation and evaluation for an audio language model that hears and speaks."""

__version__ = "0.1.0"
