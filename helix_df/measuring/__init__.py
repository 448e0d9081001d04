"""What a device and the links really do, and where that is not what was declared."""
