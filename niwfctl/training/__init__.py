"""Training a capability: data, loop, checkpoints."""
