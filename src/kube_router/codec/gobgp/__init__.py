"""GoBGP's gRPC messages <-> values of ours, for both generations of its API. No I/O: apply/gobgp/ makes the calls."""
