"""One file per command. Each raises :class:`biaslab.errors.InputError` for an invalid argument."""
