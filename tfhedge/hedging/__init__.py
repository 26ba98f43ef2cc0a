"""What is hedged, with what, and how the result is judged."""
