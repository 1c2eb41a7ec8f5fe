"""One file a command; each raises :class:`biaslab.errors.InputError` if an argument is not what is expected."""
