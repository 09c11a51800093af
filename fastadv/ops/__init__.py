"""The fused ops, one file a family; their public functions are the names of :mod:`fastadv`."""
