"""The back-end's side of a virtqueue, split and packed."""
