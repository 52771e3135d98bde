"""Scripts that measure: each prints what it found and writes it as JSON."""
