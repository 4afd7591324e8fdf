"""What runs containers: NVIDIA enroot, or the embedded runtime where it isn't installed."""
