"""The report of `oatmill compare`: what finished runs say about their arms."""
