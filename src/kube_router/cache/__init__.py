"""What we were told: typed stores with indexes, and for each controller the objects that changed since it last looked."""
