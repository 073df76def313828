"""Conversion between the spaces that environments declare and those of oatmill."""
