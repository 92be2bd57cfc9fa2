"""Starting a training stage on one machine or on a cluster: files, commands, and the agent that runs the ranks of a node."""
