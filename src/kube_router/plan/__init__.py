"""Pure planning: from what items want and what targets hold to the smallest ordered list of changes."""
