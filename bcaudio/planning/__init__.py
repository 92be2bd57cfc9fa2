"""What a recipe needs before it runs: parameters, memory, compute, time, disk. Nothing here needs a GPU."""
