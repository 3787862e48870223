"""The front-end's memory as a back-end reaches it: regions, IOTLB and dirty log."""
