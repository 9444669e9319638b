"""Training: both phases with Accelerate and TRL."""
