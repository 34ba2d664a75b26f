"""The checks behind `make check` and `make test`."""
