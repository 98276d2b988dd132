"""One module per operator family, each with ``cases(device) -> Iterator[Case]``."""
