"""Grand Challenge's invoke API: a server that keeps the model loaded and segments what is mounted, call by call."""
