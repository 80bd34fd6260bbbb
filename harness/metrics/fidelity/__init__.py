"""How synthetic sets compare with real ones, one file a metric."""
