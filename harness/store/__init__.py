"""What was computed: stage results by content key, and arrays that are kept. Imports ``errors`` and ``home`` only."""
