"""What this node answers for Services: listeners of this process, which end with it."""
