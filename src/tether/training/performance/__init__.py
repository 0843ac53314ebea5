"""What makes a training step fast and small, and changes no number: memory layout, kept activations, precision."""
