"""`prefdata slurm`: batch scripts, jobs and what has become of them."""
