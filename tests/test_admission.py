"""Bounds on what is in flight, given back whatever happens."""

from contextlib import ExitStack, suppress
from itertools import count

import pytest

from service.runtime.admission import AT_FIRST, GAIN, LEAST, Admission, OverloadedError, Pace


def test_uploads_and_bytes_are_bounded_and_given_back() -> None:
    admission = Admission(max_panoramas=1, max_bytes=100, max_arriving=2)
    with admission.admitted() as first, admission.admitted() as second:
        first.take(60)
        with pytest.raises(OverloadedError, match="100"):
            second.take(41)
        second.take(40)
        with pytest.raises(OverloadedError, match="2 uploads"), admission.admitted():
            pass
        assert (admission.panoramas, admission.bytes) == (2, 100)
    assert (admission.panoramas, admission.bytes) == (0, 0)


def test_a_batch_takes_as_many_places_as_it_has_panoramas() -> None:
    admission = Admission(max_panoramas=4, max_bytes=100, max_arriving=9, max_stretch=2.5)
    with admission.admitted() as batch, admission.admitted() as other:
        batch.start(3)
        with pytest.raises(OverloadedError, match="limit of 4"):
            other.start(2)
        other.start(1)
        assert (admission.working, admission.panoramas) == (4, 4)
    assert (admission.working, admission.panoramas) == (0, 0)


class Server:
    """One worker answers batches of up to 8 in 4 ms + 3 ms for each; a clock that is set."""

    def __init__(self, max_stretch: float = 2.5) -> None:
        self.now = 0.0
        self.admission = Admission(64, 1000, 64, max_stretch, clock=lambda: self.now)

    def under(self, spacing: float, requests: int) -> list[float]:
        """Latencies of those accepted, of so many requests that arrive so far apart."""
        latencies, waiting, batch, free_at = [], [], [], float("inf")
        arrivals = count(self.now + spacing, spacing)
        arrival = next(arrivals)
        while requests or waiting or batch:
            if requests and arrival < free_at:
                self.now, arrival, requests = arrival, next(arrivals), requests - 1
                with ExitStack() as stack, suppress(OverloadedError):
                    place = stack.enter_context(self.admission.admitted())
                    place.start()
                    waiting.append((self.now, place, stack.pop_all()))
            else:
                self.now = free_at
                for since, place, stack in batch:
                    latencies.append(self.now - since)
                    place.answered("small")
                    stack.close()
                batch, free_at = [], float("inf")
            if waiting and not batch:
                batch, waiting = waiting[:8], waiting[8:]
                free_at = self.now + 0.004 + 0.003 * len(batch)
        return latencies


def p99(latencies: list[float]) -> float:
    return sorted(latencies)[int(0.99 * len(latencies))]


def test_at_four_times_what_saturates_the_accepted_wait_little() -> None:
    server = Server()
    alone = p99(server.under(spacing=0.1, requests=20))
    assert alone == pytest.approx(0.007)
    begun = server.now
    latencies = server.under(spacing=1 / 1000, requests=10_000)  # batches of 8: 286 a second
    assert p99(latencies) <= 3.0 * alone + 1e-6
    assert len(latencies) / (server.now - begun) >= 0.6 * 286
    assert (server.admission.working, server.admission.panoramas) == (0, 0)


def test_patience_buys_throughput() -> None:
    answered = [len(Server(stretch).under(1 / 1000, 5000)) for stretch in (2.5, 4.0, 8.0, 100.0)]
    assert answered == sorted(answered)
    assert answered[-1] / 5.0 == pytest.approx(286, rel=0.05)  # 8 in 28 ms


def test_nobody_is_refused_below_saturation() -> None:
    assert len(Server().under(spacing=1 / 100, requests=500)) == 500


def test_what_is_known_of_lone_requests_follows_a_slower_model() -> None:
    pace = Pace(most=64, max_stretch=2.0)
    pace.learn("small", 0.01, alone=True, pressed=False)
    while pace.limit > LEAST:
        pace.learn("small", 0.1, alone=False, pressed=True)
    for _ in range(200):
        pace.learn("small", 0.1, alone=False, pressed=True)
    assert pace.limit > LEAST


def test_missed_deadlines_lower_the_limit_to_the_least() -> None:
    pace, single = Pace(most=64, max_stretch=5.0), Pace(most=1, max_stretch=5.0)
    for _ in range(10):
        pace.miss()
        single.miss()
    assert pace.limit == pytest.approx(AT_FIRST * 5.0 * (1.0 - GAIN) ** 10)
    for _ in range(200):
        pace.miss()
    assert (pace.limit, single.limit) == (LEAST, 1.0)


def test_uploads_that_still_arrive_take_no_place_of_work() -> None:
    admission = Admission(max_panoramas=64, max_bytes=100, max_arriving=64, max_stretch=2.5)
    with ExitStack() as stack:
        places = [stack.enter_context(admission.admitted()) for _ in range(10)]
        for place in places[: admission.limit]:
            place.start()
        with pytest.raises(OverloadedError, match="4 panoramas"):
            places[-1].start()
        with pytest.raises(OverloadedError), admission.admitted():
            pass
    assert (admission.working, admission.panoramas) == (0, 0)
