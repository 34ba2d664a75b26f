"""What the program says about itself: log lines, metrics, health, its version; and the type that keeps secrets out of them."""
