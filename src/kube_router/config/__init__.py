"""The command line: one table of flags, Go's flag syntax, one validation that names every fault, one frozen Options."""
