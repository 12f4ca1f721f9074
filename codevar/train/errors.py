"""What stops a training; the message is one line that says what to do."""


class TrainError(ValueError):
    """A mistake of the user's, or a run that cannot go on."""
