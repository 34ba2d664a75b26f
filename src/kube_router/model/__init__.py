"""Values: Kubernetes objects as we use them, and the vocabulary of the state that we want in kernel, speaker and files."""
