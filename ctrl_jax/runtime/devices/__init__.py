"""Devices: the mesh, and the start of several processes."""
