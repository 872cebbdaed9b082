"""Model folders: finding, reading and writing them, without ever executing a pickle."""
