"""Injects faults into a real run and checks that it recovers, for `oatmill chaos`."""
