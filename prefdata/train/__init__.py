"""Training on a finished run: here with TRL, or as a job of NeMo Customizer."""
