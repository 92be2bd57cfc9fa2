"""Speed and memory against the usual way of doing the same: see README.md in this folder."""
