"""A back-end's access to the front-end's memory: regions, IOTLB and dirty log."""
