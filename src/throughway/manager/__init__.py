"""A manager: the process that starts the workers of one node, feeds them tasks, and answers for them."""
