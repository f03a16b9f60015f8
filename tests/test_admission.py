"""Bounds on what is in flight, given back whatever happens."""

import pytest

from service.api.admission import Admission, OverloadedError


def test_places_and_bytes_are_bounded_and_given_back() -> None:
    admission = Admission(max_panoramas=2, max_bytes=100)
    with admission.admitted() as first, admission.admitted() as second:
        first.take(size=60)
        with pytest.raises(OverloadedError, match="100"):
            second.take(size=41)
        second.take(size=40)
        with pytest.raises(OverloadedError, match="2"), admission.admitted():
            pass
        assert (admission.panoramas, admission.bytes) == (2, 100)
    assert (admission.panoramas, admission.bytes) == (0, 0)


def test_a_place_can_grow_by_panoramas() -> None:
    admission = Admission(max_panoramas=4, max_bytes=100)
    with admission.admitted() as place:
        place.take(panoramas=3)
        with pytest.raises(OverloadedError):
            place.take(panoramas=1)
        assert admission.panoramas == 4
    assert admission.panoramas == 0
