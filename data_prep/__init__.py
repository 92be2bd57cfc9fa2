"""From raw audio and text to shards. Run: python -m data_prep run RECIPE."""
