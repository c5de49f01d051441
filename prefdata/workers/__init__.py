"""The replicas of a model: processes, dealing of rows, deaths."""
