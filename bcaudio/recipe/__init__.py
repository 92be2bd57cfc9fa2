"""Recipes: load and override them, check them before anything runs, build objects from them, run them as a graph of stages."""
