"""Students behind HTTP: requests are read, gathered into batches and answered."""
