"""How many steps of a run fit into a time, by the speed that is seen on the way."""

from collections.abc import Callable

RESERVE = 0.05  # share of the time that is kept for writing the model


class TimeLimit:
    """Ends a run after a time that begins now.

    seconds: until the model is written.  clock: gives seconds, as `time.monotonic`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds, self._clock = seconds, clock
        self._end = clock() + (1 - RESERVE) * seconds
        self._marks: list[tuple[int, float]] = []  # steps done, and when

    def fitting_steps(self, done: int, most: int) -> int:
        """Steps of the whole run: those done, those that fit into the time that is left at the
        speed of the newer half of this run's steps, and at least one more, for which rates have
        fallen.  At most `most`."""
        now = self._clock()
        self._marks.append((done, now))
        # The first mark is after the first step, which compiles and is no measure of the others.
        first, last = self._marks[0][0], self._marks[-1][0]
        since, then = next(mark for mark in self._marks if mark[0] >= (first + last) // 2)
        step_s = (now - then) / (done - since) if done > since else 0.0
        left = self._end - now
        if not step_s:  # after one step, which is all there is if it took the whole time
            return min(most, done + 1) if left <= 0 else most
        more = int(left / step_s)
        return min(most, done + max(1, more))
