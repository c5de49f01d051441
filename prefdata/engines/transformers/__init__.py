"""transformers: small models on a CPU, batched so that rows do not depend on their batch."""
