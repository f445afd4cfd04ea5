"""The frozen backbone: loading, identity, quantization, and the field inside it."""
