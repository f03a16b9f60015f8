"""Uploads in flight are bounded, and released whatever happens."""

from contextlib import ExitStack, suppress
from itertools import count

import pytest

from service.runtime.admission import AT_FIRST, GAIN, LEAST, Admission, OverloadedError, WorkLimit


def test_uploads_and_bytes_are_bounded_and_released() -> None:
    admission = Admission(max_panoramas=1, max_bytes=100, max_arriving=2)
    with admission.reserve() as first, admission.reserve() as second:
        first.grow(60)
        with pytest.raises(OverloadedError, match="100"):
            second.grow(41)
        second.grow(40)
        with pytest.raises(OverloadedError, match="2 uploads"), admission.reserve():
            pass
        assert (admission.panoramas, admission.bytes) == (2, 100)
    assert (admission.panoramas, admission.bytes) == (0, 0)


def test_a_batch_counts_all_its_panoramas() -> None:
    admission = Admission(max_panoramas=4, max_bytes=100, max_arriving=9, max_stretch=2.5)
    with admission.reserve() as batch, admission.reserve() as other:
        batch.start(3)
        with pytest.raises(OverloadedError, match="limit of 4"):
            other.start(2)
        other.start(1)
        assert (admission.working, admission.panoramas) == (4, 4)
    assert (admission.working, admission.panoramas) == (0, 0)


class Server:
    """One worker with a made-up clock: a batch of up to 8 takes 4 ms plus 3 ms a panorama."""

    def __init__(self, max_stretch: float = 2.5) -> None:
        self.now = 0.0
        self.admission = Admission(64, 1000, 64, max_stretch, clock=lambda: self.now)

    def under(self, spacing: float, requests: int) -> list[float]:
        """Latencies of the accepted requests when requests arrive `spacing` seconds apart."""
        latencies, waiting, batch, free_at = [], [], [], float("inf")
        arrivals = count(self.now + spacing, spacing)
        arrival = next(arrivals)
        while requests or waiting or batch:
            if requests and arrival < free_at:
                self.now, arrival, requests = arrival, next(arrivals), requests - 1
                with ExitStack() as stack, suppress(OverloadedError):
                    reservation = stack.enter_context(self.admission.reserve())
                    reservation.start()
                    waiting.append((self.now, reservation, stack.pop_all()))
            else:
                self.now = free_at
                for since, reservation, stack in batch:
                    latencies.append(self.now - since)
                    reservation.answered("small")
                    stack.close()
                batch, free_at = [], float("inf")
            if waiting and not batch:
                batch, waiting = waiting[:8], waiting[8:]
                free_at = self.now + 0.004 + 0.003 * len(batch)
        return latencies


def p99(latencies: list[float]) -> float:
    return sorted(latencies)[int(0.99 * len(latencies))]


def test_accepted_requests_wait_little_at_four_times_saturation() -> None:
    server = Server()
    alone = p99(server.under(spacing=0.1, requests=20))
    assert alone == pytest.approx(0.007)
    begun = server.now
    latencies = server.under(spacing=1 / 1000, requests=10_000)  # batches of 8: 286 a second
    assert p99(latencies) <= 3.0 * alone + 1e-6
    assert len(latencies) / (server.now - begun) >= 0.6 * 286
    assert (server.admission.working, server.admission.panoramas) == (0, 0)


def test_a_larger_stretch_buys_throughput() -> None:
    answered = [len(Server(stretch).under(1 / 1000, 5000)) for stretch in (2.5, 4.0, 8.0, 100.0)]
    assert answered == sorted(answered)
    assert answered[-1] / 5.0 == pytest.approx(286, rel=0.05)  # 8 in 28 ms


def test_below_saturation_every_request_is_accepted() -> None:
    assert len(Server().under(spacing=1 / 100, requests=500)) == 500


def test_the_limit_recovers_when_the_model_gets_slower() -> None:
    limit = WorkLimit(most=64, max_stretch=2.0)
    limit.learn("small", 0.01, alone=True, pressed=False)
    while limit.limit > LEAST:
        limit.learn("small", 0.1, alone=False, pressed=True)
    for _ in range(200):
        limit.learn("small", 0.1, alone=False, pressed=True)
    assert limit.limit > LEAST


def test_missed_deadlines_lower_the_limit_to_the_least() -> None:
    limit, single = WorkLimit(most=64, max_stretch=5.0), WorkLimit(most=1, max_stretch=5.0)
    for _ in range(10):
        limit.miss()
        single.miss()
    assert limit.limit == pytest.approx(AT_FIRST * 5.0 * (1.0 - GAIN) ** 10)
    for _ in range(200):
        limit.miss()
    assert (limit.limit, single.limit) == (LEAST, 1.0)


def test_arriving_uploads_do_not_count_as_work() -> None:
    admission = Admission(max_panoramas=64, max_bytes=100, max_arriving=64, max_stretch=2.5)
    with ExitStack() as stack:
        reservations = [stack.enter_context(admission.reserve()) for _ in range(10)]
        for reservation in reservations[: admission.limit]:
            reservation.start()
        with pytest.raises(OverloadedError, match="4 panoramas"):
            reservations[-1].start()
        with pytest.raises(OverloadedError), admission.reserve():
            pass
    assert (admission.working, admission.panoramas) == (0, 0)
