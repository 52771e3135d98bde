"""Complete small programs that use `adaptive` in other models; run from a checkout."""
