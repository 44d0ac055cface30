"""Segmentation models of other libraries, as networks that give scores."""
