"""A run as tasks on a cluster: what is written for its engine, and how far the tasks are."""
