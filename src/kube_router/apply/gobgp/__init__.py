"""gobgpd over gRPC: the target that programs it, and the feed that the watch reads."""
