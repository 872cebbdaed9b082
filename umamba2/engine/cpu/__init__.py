"""The same networks, faster on CPUs."""
