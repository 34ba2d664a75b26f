"""The Container Runtime Interface, as far as pods' network namespaces need it."""
