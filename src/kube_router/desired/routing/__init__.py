"""Rules of the routing controllers: the host (bridge, sets, egress), the speaker, and the kernel's routes."""
