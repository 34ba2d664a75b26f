"""Small pure helpers and shared errors; knows nothing of Kubernetes or of the kernel."""
