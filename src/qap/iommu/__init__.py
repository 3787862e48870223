"""Virtual IOMMUs programmed as a guest's kernel would: domains, mappings and faults."""
