"""Loops: when to sync, never what."""
