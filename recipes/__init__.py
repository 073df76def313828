"""What to train: a run's settings, and starting it on this machine."""

try:
    from protocol.origin import check_packages
except ImportError as error:
    raise ImportError(
        f"another module named protocol comes first on Python's path ({error}); rename it: oatmill has a package of that name"
    ) from error

# A script's folder comes first on the path: a file of the user's may have the name of one of oatmill's packages.
check_packages()
