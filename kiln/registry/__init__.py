"""Images that others made: found in registries and archives, fetched, verified, unpacked."""
