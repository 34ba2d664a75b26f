"""What is written to the cloud that a node runs in."""
