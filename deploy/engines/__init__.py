"""Clusters on engines that exist: they place, restart and scale the roles; oatmill writes no scheduler of its own."""
