"""The reporter of a process that writes nothing."""


class NoReporter:
    """Takes what a `Reporter` is told, in the workers beside the chief."""

    def train(self, *arguments, **named):
        """Nothing is kept."""

    def valid(self, *arguments):
        """Nothing is kept."""

    def has_validated(self, step) -> bool:
        """Evaluations are the chief's."""
        del step
        return True

    def losses(self) -> list:
        """There are none."""
        return []

    def say(self, line: str):
        """Nothing is shown."""

    def go_back(self, step: int):
        """Nothing is kept."""

    def draw(self):
        """There is nothing to draw."""

    def close(self):
        """There is nothing to close."""
