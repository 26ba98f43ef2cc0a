"""From settings to a trained, evaluated and exported policy in a folder."""
