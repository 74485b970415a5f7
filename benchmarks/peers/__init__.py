"""The other side of every comparison; each module needs the `peers` extra."""
