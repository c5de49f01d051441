"""The Python API: what the commands do, as functions and a `Run`, in scripts and notebooks."""
