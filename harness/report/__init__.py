"""Reports: a pure function of the results table and the stored artifacts."""
