"""What the program shows over HTTP: whether it is alive and ready, and its metrics. It answers and changes nothing."""
