"""Kronecker-factored curvature and the optimizer built on it; no finance in here."""
