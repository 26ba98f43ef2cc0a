"""A trained policy as a SavedModel."""
