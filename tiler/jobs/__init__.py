"""One output from start to end: the graph, its tasks here or on a cluster, and the journal of what is finished."""
